//! What the golden tests share: literal bytes, and the check in both directions.

use ferroce_wire::Wire;
use std::fmt::Debug;

/// The bytes of a hexadecimal literal; white space does not count.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    assert!(digits.len().is_multiple_of(2));
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// `len` bytes, 0 but for these pieces.
pub fn sparse(len: usize, pieces: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, piece) in pieces {
        bytes[*at..at + piece.len()].copy_from_slice(piece);
    }
    bytes
}

/// `bytes` parse as `built`, and `built` written over 0xA5 gives `bytes`: no byte is left unwritten,
/// none behind the structure is touched.
#[track_caller]
pub fn both_ways<T: Wire + PartialEq + Debug>(bytes: &[u8], built: T) {
    assert_eq!(bytes.len(), T::LEN);
    assert_eq!(T::read(bytes).expect("long enough"), built);
    assert!(T::read(&bytes[..T::LEN - 1]).is_none());

    let mut out = vec![0xA5; T::LEN + 8];
    out[..T::LEN].copy_from_slice(built.as_bytes());
    assert_eq!(&out[..T::LEN], bytes);
    assert_eq!(out[T::LEN..], [0xA5; 8]);

    let mut out = vec![0xA5; T::LEN + 8];
    *T::view_mut(&mut out).expect("long enough") = built;
    assert_eq!(&out[..T::LEN], bytes);
    assert_eq!(out[T::LEN..], [0xA5; 8]);
}
