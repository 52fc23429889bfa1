//! A dispatch is JSON or does not say what it is.

use crate::error::{Code, Rejection};
use crate::gate::{Book, DoorGate, DoorScene, Refusal, Standing};
use crate::request::head::One;
use crate::snapshot::settings::Settings;

struct MediaType;

pub(super) fn build(_: &Settings, _: &mut Book) -> Result<Option<Box<dyn DoorGate>>, String> {
    Ok(Some(Box::new(MediaType)))
}

impl DoorGate for MediaType {
    fn check(&self, scene: &DoorScene<'_>, _: &mut Standing) -> Result<(), Refusal> {
        let acceptable = match scene.head.one(b"content-type") {
            One::Absent => true,
            One::Single(value) => is_json(value),
            One::Repeated => false,
        };
        if acceptable {
            return Ok(());
        }
        Err(Rejection::new(Code::UnsupportedMediaType, "content type is not application/json").into())
    }
}

/// `application/json`, with or without parameters.
fn is_json(value: &[u8]) -> bool {
    let essence = value.split(|&b| b == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}
