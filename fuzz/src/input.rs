//! Bytes of the fuzzer as choices. What is missing at the end is zero, so that every input is one.

/// Reads choices from the front.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// A number below `end`, zero if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let number = usize::from(self.byte()) << 8 | usize::from(self.byte());
        number.checked_rem(end).unwrap_or_default()
    }

    /// Up to `most` pieces: of these, or one visible character.
    pub fn text(&mut self, pieces: &[&str], most: u8) -> String {
        let count = self.byte() % (most + 1);
        let mut piece = |_| match self.byte() {
            byte @ 128.. => pieces[usize::from(byte) % pieces.len()].to_owned(),
            byte => char::from(byte % 94 + 0x21).to_string(),
        };
        (0..count).map(&mut piece).collect()
    }

    /// Up to `most` bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let count = usize::from(self.byte()).min(most).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
