//! Mutations that know nothing about the bytes.

use crate::random::Random;

/// Changes `bytes` in one place and says how.
pub(crate) fn mutate(bytes: &mut Vec<u8>, random: &mut Random) -> String {
    if bytes.is_empty() {
        bytes.push(random.word() as u8);
        return "a byte where there was none".into();
    }
    // Headers are short beside the data, and most of what can go wrong goes wrong there.
    let reach = if random.one_in(2) { bytes.len() } else { bytes.len().min(4096) };
    let at = random.below(reach);
    let length = (1 + random.below(64)).min(bytes.len() - at);
    match random.below(7) {
        0 => {
            bytes[at] ^= 1 << random.below(8);
            format!("bit flip at {at}")
        }
        1 => {
            bytes[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'9']);
            format!("byte {} at {at}", bytes[at])
        }
        2 => {
            bytes[at..at + length].iter_mut().for_each(|byte| *byte = random.word() as u8);
            format!("{length} random bytes at {at}")
        }
        3 => {
            let from = random.below(bytes.len() - length + 1);
            bytes.copy_within(from..from + length, at);
            format!("{length} bytes copied from {from} to {at}")
        }
        4 => {
            let from = random.below(bytes.len() - length + 1);
            let block = bytes[from..from + length].to_vec();
            bytes.splice(at..at, block);
            format!("{length} bytes of {from} inserted at {at}")
        }
        5 => {
            bytes.drain(at..at + length);
            format!("{length} bytes removed at {at}")
        }
        _ => {
            bytes.truncate(at);
            format!("truncated to {at}")
        }
    }
}
