//! YAML 1.2 text to a tree of spanned nodes; the only place that names the YAML parser.
//!
//! The subset is what JSON can say: anchors, aliases, tags, directives, merge keys, duplicate keys
//! and further documents are refused, so a reader sees each value once and where it stands.
//! Plain scalars have the types of the core schema (YAML 1.2.2, section 10.3).
//!
//! Invariant: the tree has at most [`NODES_MAX`] nodes and is at most [`DEPTH_MAX`] × 2 deep.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, StructureStyle};

use super::source::{Source, Span, shown};

/// Most nodes of one file.
pub const NODES_MAX: usize = 500_000;
/// Deepest nesting of blocks, and again of brackets.
pub const DEPTH_MAX: usize = 32;

/// One value and where it stands.
#[derive(Debug)]
pub struct Node {
    /// A blank value has an empty span.
    pub span: Span,
    pub kind: Kind,
}

#[derive(Debug)]
pub enum Kind {
    Scalar(Scalar),
    List {
        items: Vec<Node>,
        inline: bool,
    },
    Map {
        entries: Vec<Entry>,
        inline: bool,
    },
    /// Already complained about.
    Refused,
}

/// One `key: value`.
#[derive(Debug)]
pub struct Entry {
    pub key: String,
    pub key_span: Span,
    pub value: Node,
}

#[derive(Debug)]
pub struct Scalar {
    pub text: String,
    /// Neither quoted nor a `|` or `>` block: may be a number, a boolean or null.
    pub plain: bool,
}

/// What a scalar is in the core schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarType {
    Null,
    Boolean(bool),
    Integer,
    Float,
    Text,
}

/// One reason why a file is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct YamlError {
    pub span: Span,
    pub message: String,
    pub help: Option<&'static str>,
}

impl Scalar {
    pub fn scalar_type(&self) -> ScalarType {
        if !self.plain {
            return ScalarType::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => ScalarType::Null,
            "true" | "True" | "TRUE" => ScalarType::Boolean(true),
            "false" | "False" | "FALSE" => ScalarType::Boolean(false),
            text if is_integer(text) => ScalarType::Integer,
            text if is_float(text) => ScalarType::Float,
            _ => ScalarType::Text,
        }
    }
}

/// The tree of a file, or as much of it as can be read beside the errors.
///
/// Masks in `source` every scalar whose key sounds like a secret.
pub fn parse(source: &Source) -> (Option<Node>, Vec<YamlError>) {
    let mut builder = Builder { source, open: Vec::new(), root: None, errors: Vec::new(), nodes: 0, documents: 0 };
    let mut options = granit_parser::options! {
        disallow_directives: true,
        emit_unresolved_aliases: true,
        emit_anchor_events: true,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    options.set_emit_comments(false);
    for next in Parser::new_from_str_with_options(source.text(), options) {
        let proceed = match next {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => {
                builder.syntax_error(*error.marker(), error.kind());
                false
            }
        };
        if !proceed {
            return (None, builder.errors);
        }
    }
    if builder.root.is_none() && builder.errors.is_empty() {
        builder.error(Span::TOP, "the file is empty".to_owned(), None);
    }
    (builder.root, builder.errors)
}

/// AWS's service: a block of that name says where a secret is, and its keys what in it is one.
const SECRETS_MANAGER: &str = "secrets_manager";

/// Whether a key of this name is likely to hold a secret.
pub fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["secret", "token", "password", "passphrase", "credential", "private"].iter().any(|word| name.contains(word))
}

struct Builder<'a> {
    source: &'a Source,
    open: Vec<Open>,
    root: Option<Node>,
    errors: Vec<YamlError>,
    nodes: usize,
    documents: usize,
}

/// A collection whose end has not come yet.
enum Open {
    List { start: Span, items: Vec<Node>, inline: bool },
    Map { start: Span, entries: Vec<Entry>, inline: bool, key: Option<(String, Span)> },
}

impl Builder<'_> {
    /// False if reading on is pointless.
    fn event(&mut self, event: Event<'_>, raw: granit_parser::Span) -> bool {
        let span = span_of(raw.start, raw.end);
        self.refuse_tag(&event, &raw, span);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let help = Some("a configuration file is one document; remove the `---` and what follows");
                    self.error(span, "a second document begins here".to_owned(), help);
                    return false;
                }
            }
            Event::Scalar(text, style, _, _) => {
                // The parser reports a blank value as the text `~` that takes no place.
                let text =
                    if style == ScalarStyle::Plain && span.is_empty() { String::new() } else { text.into_owned() };
                let scalar = Scalar { text, plain: style == ScalarStyle::Plain };
                return self.node(Node { span, kind: Kind::Scalar(scalar) });
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                let help = Some("write the value out; a value that begins with `*` must be quoted");
                self.error(span, "aliases are not supported".to_owned(), help);
                return self.node(Node { span, kind: Kind::Refused });
            }
            Event::Anchor(..) => {
                let help = Some("write the value out where it is needed; a value that begins with `&` must be quoted");
                self.error(span, "anchors are not supported".to_owned(), help);
            }
            Event::SequenceStart(style, ..) => {
                let inline = style == StructureStyle::Flow;
                self.open.push(Open::List { start: span, items: Vec::new(), inline });
            }
            Event::MappingStart(style, ..) => {
                let inline = style == StructureStyle::Flow;
                self.open.push(Open::Map { start: span, entries: Vec::new(), inline, key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => return self.close(span),
            _ => {}
        }
        true
    }

    fn refuse_tag(&mut self, event: &Event<'_>, raw: &granit_parser::Span, span: Span) {
        if event.tag().is_some() {
            let at = raw.tag_span().map_or(span, |tag| span_of(tag.start, tag.end));
            let help = Some("remove the tag; a value that begins with `!` must be quoted");
            self.error(at, "tags are not supported".to_owned(), help);
        }
    }

    fn close(&mut self, end: Span) -> bool {
        let node = match self.open.pop() {
            Some(Open::List { start, items, inline }) => {
                Node { span: Span { end: end.end, ..start }, kind: Kind::List { items, inline } }
            }
            Some(Open::Map { start, entries, inline, .. }) => {
                self.refuse_duplicates(&entries);
                Node { span: Span { end: end.end, ..start }, kind: Kind::Map { entries, inline } }
            }
            None => return true,
        };
        self.node(node)
    }

    fn node(&mut self, node: Node) -> bool {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            self.error(node.span, format!("the file has more than {NODES_MAX} values"), Some("split it"));
            return false;
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                Some((key, key_span)) => {
                    if sounds_secret(&key) && !(key == SECRETS_MANAGER && matches!(node.kind, Kind::Map { .. })) {
                        mask_scalars(self.source, &node);
                    }
                    entries.push(Entry { key, key_span, value: node });
                }
                None => {
                    let (name, refusal) = key_name(&node);
                    *key = Some((name, node.span));
                    if let Some((message, help)) = refusal {
                        self.error(node.span, message.to_owned(), Some(help));
                    }
                }
            },
        }
        true
    }

    fn refuse_duplicates(&mut self, entries: &[Entry]) {
        let mut first: HashMap<&str, Span> = HashMap::with_capacity(entries.len());
        for Entry { key, key_span, value: _ } in entries {
            match first.get(key.as_str()) {
                Some(earlier) => {
                    let name = if self.source.is_confidential() { String::new() } else { format!(" `{}`", shown(key)) };
                    let message = format!("duplicate key{name}, already on line {}", earlier.line);
                    self.error(*key_span, message, Some("keep one of the two"));
                }
                None => {
                    first.insert(key, *key_span);
                }
            }
        }
    }

    fn syntax_error(&mut self, at: Marker, kind: &ErrorKind) {
        let span = span_of(at, at);
        let detail = match kind {
            ErrorKind::UnexpectedCharacter { .. } if self.source.is_confidential() => "unexpected character".to_owned(),
            ErrorKind::RecursionLimitExceeded => format!("nested deeper than {DEPTH_MAX}"),
            other => other.to_string(),
        };
        self.mask_line_of_secret(span);
        let help =
            Some("texts with `: `, ` #`, or a leading `[`, `{`, `*`, `&`, `!`, `%`, `@` or backtick need quotes");
        self.error(span, format!("not valid YAML: {detail}"), help);
    }

    /// Where the tree ends in an error no key says what is secret; the line's own words have to.
    fn mask_line_of_secret(&self, at: Span) {
        let text = self.source.text();
        let offset = at.start as usize;
        let start = text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
        let end = text.get(offset..).and_then(|rest| rest.find('\n')).map_or(text.len(), |newline| offset + newline);
        if text.get(start..end).is_some_and(sounds_secret) {
            self.source.mask(Span { start: start as u32, end: end as u32, ..at });
        }
    }

    fn error(&mut self, span: Span, message: String, help: Option<&'static str>) {
        self.errors.push(YamlError { span, message, help });
    }
}

/// Hides every scalar of a value, but leaves references to secrets readable.
fn mask_scalars(source: &Source, node: &Node) {
    match &node.kind {
        Kind::Scalar(_) => source.mask(node.span),
        Kind::List { items, .. } => items.iter().for_each(|item| mask_scalars(source, item)),
        Kind::Map { entries, .. } => {
            for entry in entries.iter().filter(|entry| !matches!(entry.key.as_str(), "env" | "file" | "keys")) {
                mask_scalars(source, &entry.value);
            }
        }
        Kind::Refused => {}
    }
}

/// A node as the name of a key, with what is wrong with it.
fn key_name(node: &Node) -> (String, Option<(&'static str, &'static str)>) {
    match &node.kind {
        Kind::Scalar(scalar) if scalar.plain && scalar.text == "<<" => {
            (scalar.text.clone(), Some(("merge keys are not supported", "write the values out")))
        }
        Kind::Scalar(scalar) if scalar.scalar_type() == ScalarType::Null => {
            (String::new(), Some(("a key is missing", "write `key: value`")))
        }
        Kind::Scalar(scalar) => (scalar.text.clone(), None),
        Kind::List { .. } | Kind::Map { .. } => {
            (String::new(), Some(("a list or block cannot be a key", "write `key: value`, with text for the key")))
        }
        Kind::Refused => (String::new(), None),
    }
}

fn span_of(start: Marker, end: Marker) -> Span {
    let offset = |marker: Marker| u32::try_from(marker.byte_offset().unwrap_or_default()).unwrap_or(u32::MAX);
    Span {
        start: offset(start),
        end: offset(end),
        line: u32::try_from(start.line()).unwrap_or(u32::MAX),
        column: u32::try_from(start.col()).unwrap_or(u32::MAX).saturating_add(1),
    }
}

/// `[-+]?[0-9]+`, `0o[0-7]+` or `0x[0-9a-fA-F]+`.
fn is_integer(text: &str) -> bool {
    let all = |digits: &str, valid: fn(u8) -> bool| !digits.is_empty() && digits.bytes().all(valid);
    if let Some(octal) = text.strip_prefix("0o") {
        return all(octal, |byte| matches!(byte, b'0'..=b'7'));
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return all(hex, |byte| byte.is_ascii_hexdigit());
    }
    all(text.strip_prefix(['-', '+']).unwrap_or(text), |byte| byte.is_ascii_digit())
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, an infinity or `.nan`.
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && !exponent.is_empty()
        && digits(exponent)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::source::Confidentiality;
    use super::*;

    fn parsed(text: &str) -> (Option<Node>, Vec<YamlError>) {
        parse(&Source::new(Path::new("a.yaml"), text.to_owned(), Confidentiality::Public))
    }

    /// Asserts `line:column fragment` of each error.
    fn check(text: &str, expected: &[&str]) {
        let errors: Vec<String> =
            parsed(text).1.iter().map(|e| format!("{}:{} {}", e.span.line, e.span.column, e.message)).collect();
        assert_eq!(errors.len(), expected.len(), "{text:?}: {errors:?}");
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.starts_with(expected), "{text:?}: {error} is not {expected}");
        }
    }

    fn dump(node: &Node) -> String {
        let at = format!("{}:{}", node.span.line, node.span.column);
        match &node.kind {
            Kind::Scalar(scalar) => format!("{at} {:?} {:?}", scalar.text, scalar.scalar_type()),
            Kind::List { items, .. } => format!("{at} [{}]", items.iter().map(dump).collect::<Vec<_>>().join(", ")),
            Kind::Map { entries, .. } => {
                let entries: Vec<String> = entries
                    .iter()
                    .map(|e| format!("{}:{} {} => {}", e.key_span.line, e.key_span.column, e.key, dump(&e.value)))
                    .collect();
                format!("{at} {{{}}}", entries.join(", "))
            }
            Kind::Refused => format!("{at} refused"),
        }
    }

    #[test]
    fn trees_carry_positions() {
        let (root, errors) = parsed("a: 1\nbé: [x, \"2\"]\nc:\n  d: { e: null }\nf:\n");
        assert!(errors.is_empty());
        assert_eq!(
            dump(&root.unwrap()),
            "1:1 {1:1 a => 1:4 \"1\" Integer, 2:1 bé => 2:5 [2:6 \"x\" Text, 2:9 \"2\" Text], \
             3:1 c => 4:3 {4:3 d => 4:6 {4:8 e => 4:11 \"null\" Null}}, 5:1 f => 5:2 \"\" Null}"
        );
    }

    #[test]
    fn json_is_yaml() {
        let (root, errors) = parsed("[\n\t{\"a\":1,\"b\\u00e9\\/\":\"\\ud834\\udd1e\"}\n]\n");
        assert_eq!(errors, []);
        assert_eq!(dump(&root.unwrap()), "1:1 [2:2 {2:3 a => 2:7 \"1\" Integer, 2:9 bé/ => 2:21 \"𝄞\" Text}]");
    }

    #[test]
    fn the_core_schema() {
        use ScalarType::{Boolean, Float, Integer, Null, Text};
        for (text, expected) in [
            ("~", Null),
            ("NULL", Null),
            ("nULL", Text),
            ("true", Boolean(true)),
            ("FALSE", Boolean(false)),
            ("yes", Text),
            ("off", Text),
            ("0", Integer),
            ("-12", Integer),
            ("0o17", Integer),
            ("0o19", Text),
            ("0xfF", Integer),
            ("0x", Text),
            ("1_000", Text),
            ("1:30", Text),
            ("1.5", Float),
            (".5", Float),
            ("1.", Float),
            (".", Text),
            ("1e3", Float),
            ("1e", Text),
            ("e3", Text),
            ("-.inf", Float),
            (".nan", Float),
            ("-.nan", Text),
            ("2024-01-15", Text),
        ] {
            assert_eq!(Scalar { text: text.to_owned(), plain: true }.scalar_type(), expected, "{text}");
            assert_eq!(Scalar { text: text.to_owned(), plain: false }.scalar_type(), Text);
        }
    }

    #[test]
    fn what_is_refused() {
        check("", &["1:1 the file is empty"]);
        check("# only\n", &["1:1 the file is empty"]);
        check("a: 1\nb: 2\na: 3\n", &["3:1 duplicate key `a`, already on line 1"]);
        check("{a: 1, \"a\": 2}", &["1:8 duplicate key `a`"]);
        check("a: &x 1\nb: *x\n", &["1:4 anchors", "2:4 aliases"]);
        check("a: *x\nb: !!str 1\n", &["1:4 aliases", "2:4 tags"]);
        check("<<: {a: 1}\n", &["1:1 merge keys"]);
        check("a: 1\n---\nb: 2\n", &["2:1 a second document"]);
        check("%YAML 1.2\n---\na: 1\n", &["1:1 not valid YAML"]);
        check("? [a]\n: 1\n", &["1:3 a list or block cannot be a key"]);
        check("a: [1\n", &["1:4 not valid YAML"]);
        check("a: 'x\n", &["1:4 not valid YAML"]);
        check("a: b: c\n", &["1:5 not valid YAML"]);
    }

    #[test]
    fn depth_and_size_are_bounded() {
        check(&"[".repeat(DEPTH_MAX + 1), &["1:33 not valid YAML"]);
        let (root, errors) = parsed(&format!("[{}]", "1,".repeat(NODES_MAX + 1)));
        assert!(root.is_none());
        assert_eq!((errors.len(), errors[0].span.column as usize), (1, 2 + 2 * NODES_MAX));
    }

    #[test]
    fn secrets_are_masked_even_in_unknown_keys_and_broken_lines() {
        for text in [
            "admin: { token: hunter2, x: 1 }",
            "a: 1\nclient_secret: [hunter2",
            "my_password: 'hunter2",
            "tokens: { a: [hunter2] }",
            "secrets_manager: hunter2",
            "secrets_manager: { arn: a, secret: hunter2 }",
        ] {
            let source = Source::new(Path::new("a.yaml"), text.to_owned(), Confidentiality::Public);
            parse(&source);
            let at = text.find("hunter2").unwrap() as u32;
            let excerpt = source.excerpt(Span { start: at, end: at + 1, line: 1, column: 1 }).unwrap();
            assert!(!excerpt.line.contains("hunter2"), "{}", excerpt.line);
        }
    }
}
