//! Numbers of alignment 1: little-endian as NVMe has them, big-endian as InfiniBand does.

use bytemuck::{Pod, Zeroable};
use core::fmt;

macro_rules! number {
    ($(#[$meta:meta])* $T:ident, $native:ty, $len:literal, $to:ident, $from:ident) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
        pub struct $T([u8; $len]);

        impl $T {
            /// Zero.
            pub const ZERO: Self = Self([0; $len]);

            /// The bytes that stand for `value`.
            pub const fn new(value: $native) -> Self {
                Self(value.$to())
            }

            /// The number these bytes stand for.
            pub const fn get(self) -> $native {
                <$native>::$from(self.0)
            }

            /// Changes the number in place.
            pub const fn set(&mut self, value: $native) {
                *self = Self::new(value);
            }
        }

        impl From<$native> for $T {
            fn from(value: $native) -> Self {
                Self::new(value)
            }
        }

        impl From<$T> for $native {
            fn from(value: $T) -> Self {
                value.get()
            }
        }

        number!(@common $T);
    };
    (@common $T:ident) => {
        impl PartialOrd for $T {
            fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $T {
            fn cmp(&self, other: &Self) -> core::cmp::Ordering {
                self.get().cmp(&other.get())
            }
        }

        impl fmt::Debug for $T {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.get(), f)
            }
        }

        impl fmt::Display for $T {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.get(), f)
            }
        }
    };
}

number!(
    /// A `u16` in two little-endian bytes.
    U16, u16, 2, to_le_bytes, from_le_bytes
);
number!(
    /// A `u32` in four little-endian bytes.
    U32, u32, 4, to_le_bytes, from_le_bytes
);
number!(
    /// A `u64` in eight little-endian bytes.
    U64, u64, 8, to_le_bytes, from_le_bytes
);
number!(
    /// A `u128` in sixteen little-endian bytes.
    U128, u128, 16, to_le_bytes, from_le_bytes
);

/// A number below 2^24 in three little-endian bytes: the length of a keyed SGL descriptor.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
pub struct U24([u8; 3]);

impl U24 {
    /// The largest number that fits.
    pub const MAX: u32 = (1 << 24) - 1;

    /// The bytes that stand for `value`. Panics above `MAX`: what does not fit is our own mistake.
    pub const fn new(value: u32) -> Self {
        assert!(value <= Self::MAX, "the value does not fit three bytes");
        let [a, b, c, _] = value.to_le_bytes();
        Self([a, b, c])
    }

    /// The number these bytes stand for.
    pub const fn get(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_le_bytes([a, b, c, 0])
    }
}

impl From<U24> for u32 {
    fn from(value: U24) -> Self {
        value.get()
    }
}

number!(@common U24);

number!(
    /// A `u16` in two big-endian bytes.
    Be16, u16, 2, to_be_bytes, from_be_bytes
);
number!(
    /// A `u32` in four big-endian bytes.
    Be32, u32, 4, to_be_bytes, from_be_bytes
);
number!(
    /// A `u64` in eight big-endian bytes.
    Be64, u64, 8, to_be_bytes, from_be_bytes
);

/// A number below 2^24 in three big-endian bytes: a queue pair number, a PSN.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
pub struct Be24([u8; 3]);

impl Be24 {
    /// The largest number that fits.
    pub const MAX: u32 = (1 << 24) - 1;

    /// The bytes that stand for `value`. Panics above `MAX`: what does not fit is our own mistake.
    pub const fn new(value: u32) -> Self {
        assert!(value <= Self::MAX, "the value does not fit three bytes");
        let [_, a, b, c] = value.to_be_bytes();
        Self([a, b, c])
    }

    /// The number these bytes stand for.
    pub const fn get(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_be_bytes([0, a, b, c])
    }
}

impl From<Be24> for u32 {
    fn from(value: Be24) -> Self {
        value.get()
    }
}

number!(@common Be24);
