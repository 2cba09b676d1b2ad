//! The three shapes every module here repeats: a laid-out structure, a set of numbers that the peer
//! may extend, and a word made of bit fields.

/// Asserts size, alignment and offsets at compile time; makes the type `Wire`, all zeroes by default.
macro_rules! layout {
    ($T:ty = $size:literal { $($field:ident @ $offset:literal),* $(,)? }) => {
        const _: () = assert!(size_of::<$T>() == $size);
        const _: () = assert!(align_of::<$T>() == 1);
        $(const _: () = assert!(core::mem::offset_of!($T, $field) == $offset);)*

        impl crate::Wire for $T {}

        impl Default for $T {
            fn default() -> Self {
                bytemuck::Zeroable::zeroed()
            }
        }
    };
}

/// A newtype with constants. An unknown value survives and is printed as its number. Where only some
/// of the bits name the value, `named by` says which.
macro_rules! open_set {
    (
        $(#[$meta:meta])*
        pub struct $T:ident($int:ty) $(named by $mask:literal)?;
        $($C:ident = $value:expr, $name:literal;)*
    ) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[derive(bytemuck::Pod, bytemuck::Zeroable)]
        pub struct $T(pub $int);

        impl $T {
            $(#[doc = concat!($name, ".")] pub const $C: Self = Self($value);)*

            /// The specification's name, if the value is one it defines.
            pub const fn name(self) -> Option<&'static str> {
                match Self(self.0 $(& $mask)?) {
                    $(Self::$C => Some($name),)*
                    _ => None,
                }
            }
        }

        impl core::fmt::Display for $T {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let width = 2 * size_of::<$int>();
                let bits = self.0;
                write!(f, "{} ({bits:0width$X}h)", self.name().unwrap_or("unknown"))
            }
        }

        impl core::fmt::Debug for $T {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        }
    };
}

/// A newtype over a word, with a getter and a builder for each field: `name, with_name: type = width @ shift`.
/// A builder panics if the value does not fit its field: that would be our own mistake.
macro_rules! bit_fields {
    (
        $(#[$meta:meta])*
        pub struct $T:ident($int:ty) {
            $(
                $(#[$doc:meta])*
                $get:ident, $with:ident: $kind:ident = $width:literal @ $shift:literal;
            )*
        }
    ) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[derive(bytemuck::Pod, bytemuck::Zeroable)]
        pub struct $T(pub $int);

        impl $T {
            $(
                $(#[$doc])*
                pub const fn $get(self) -> $kind {
                    let bits = (self.0 >> $shift) & (<$int>::MAX >> (<$int>::BITS - $width));
                    bit_fields!(@out $kind bits)
                }

                $(#[$doc])*
                /// (This one sets it, and panics if the value does not fit.)
                #[must_use]
                pub const fn $with(self, value: $kind) -> Self {
                    let mask = <$int>::MAX >> (<$int>::BITS - $width);
                    let value = value as $int;
                    assert!(value <= mask, "the value does not fit its field");
                    Self((self.0 & !(mask << $shift)) | (value << $shift))
                }
            )*
        }

        impl core::fmt::Debug for $T {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.debug_struct(stringify!($T))
                    $(.field(stringify!($get), &self.$get()))*
                    .finish()
            }
        }
    };
    (@out bool $bits:ident) => { $bits != 0 };
    (@out $kind:ident $bits:ident) => { $bits as $kind };
}
