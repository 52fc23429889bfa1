//! A body that announces itself as too large is refused before a byte of it is read.

use crate::error::{Code, Rejection};
use crate::gate::{Book, DoorGate, DoorScene, Refusal, Standing};
use crate::request::head::Framing;
use crate::snapshot::settings::Settings;

struct BodyLength {
    bytes_max: u64,
}

/// Built from `listen.body_bytes`; chunked bodies are counted while they are read.
pub(super) fn build(settings: &Settings, _: &mut Book) -> Result<Option<Box<dyn DoorGate>>, String> {
    Ok(Some(Box::new(BodyLength { bytes_max: settings.listen.body_bytes })))
}

impl DoorGate for BodyLength {
    fn check(&self, scene: &DoorScene<'_>, _: &mut Standing) -> Result<(), Refusal> {
        match scene.head.framing() {
            Framing::Length(bytes) if bytes > self.bytes_max => {
                Err(Rejection::new(Code::PayloadTooLarge, "Content-Length is over listen.body_bytes").into())
            }
            Framing::Length(_) | Framing::Chunked | Framing::None => Ok(()),
        }
    }
}
