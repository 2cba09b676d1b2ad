//! The power button: a key that the kernel's input devices tell of (linux/input.h, input-event-codes.h).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::thread;

use super::supervisor::Event;

/// A struct input_event of 64-bit Linux: two times of 8 bytes, then type, code and value.
const EVENT_LEN: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// The input devices that are watched.
#[derive(Debug, Default)]
pub struct Buttons {
    watched: BTreeSet<PathBuf>,
}

impl Buttons {
    /// Watches those that are new, each from a thread of its own, for as long as it is there.
    pub fn watch(&mut self, events: &Sender<Event>) {
        let there: BTreeSet<PathBuf> = fs::read_dir("/dev/input")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("event"))
            .map(|entry| entry.path())
            .collect();
        for path in there.difference(&self.watched) {
            let Ok(device) = File::open(path) else {
                continue;
            };
            let events = events.clone();
            let listen = move || listen(device, &events);
            // Without a thread for it, the button is not heard; nothing else depends on it.
            let _ = thread::Builder::new().name("button".into()).spawn(listen);
        }
        self.watched = there;
    }
}

fn listen(mut device: impl Read, events: &Sender<Event>) {
    let mut bytes = [0; EVENT_LEN * 16];
    // Whole events are read, always; the device's end is an error or nothing.
    while let Ok(count) = device.read(&mut bytes) {
        if count == 0 {
            return;
        }
        let pressed = bytes[..count].chunks_exact(EVENT_LEN).any(is_power);
        if pressed && events.send(Event::Button).is_err() {
            return;
        }
    }
}

/// Pressed, not let go.
fn is_power(event: &[u8]) -> bool {
    let number = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    (number(16), number(18), value) == (EV_KEY, KEY_POWER, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![0xA5; 16];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_the_power_button_counts_and_only_once() {
        let (send, events) = channel();
        let other = [
            event(EV_KEY, 30, 1),
            event(0, 0, 0),
            event(EV_KEY, KEY_POWER, 0),
        ]
        .concat();
        listen(other.as_slice(), &send);
        assert!(events.try_recv().is_err());
        let pressed = [event(EV_KEY, KEY_POWER, 1), event(0, 0, 0)].concat();
        listen(pressed.as_slice(), &send);
        assert!(matches!(events.try_recv(), Ok(Event::Button)));
        assert!(events.try_recv().is_err());
    }
}
