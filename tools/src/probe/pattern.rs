//! What `--verify` writes: blocks that say which block and which write they are, filled with data that
//! follows from that. Reading one tells whether it is the last write acknowledged, and if not, what
//! it is instead.

use std::fmt;

/// First bytes of each block.
const MAGIC: u64 = 0x6563_6F72_7265_6621;
/// Magic, seed, block number, write number.
const HEADER: usize = 32;

/// One write of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Of the run.
    pub seed: u64,
    /// Block number.
    pub lba: u64,
    /// Counts the writes of this block, from 1.
    pub write: u32,
}

impl Stamp {
    /// Fills a block.
    pub fn fill(self, block: &mut [u8]) {
        let words = [MAGIC, self.seed, self.lba, u64::from(self.write)];
        for (place, word) in block.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let mut noise = Noise::of(self);
        for place in block[HEADER..].chunks_exact_mut(8) {
            place.copy_from_slice(&noise.next().to_le_bytes());
        }
    }

    /// Compares a block with what it must be.
    ///
    /// # Errors
    /// What it is instead.
    pub fn check(self, block: &[u8]) -> Result<(), Wrong> {
        let found = Stamp::of(block);
        if found == Some(self) && self.data_is_whole(block) {
            return Ok(());
        }
        Err(Wrong {
            expected: self,
            found: match found {
                Some(other) if !other.data_is_whole(block) => Found::Torn(other),
                Some(other) => Found::Other(other),
                None if block.iter().all(|&byte| byte == 0) => Found::Zeros,
                None => Found::Foreign,
            },
        })
    }

    /// What a block says it is.
    fn of(block: &[u8]) -> Option<Stamp> {
        let word =
            |i: usize| u64::from_le_bytes(block[i * 8..][..8].try_into().expect("eight bytes"));
        (word(0) == MAGIC).then(|| Stamp {
            seed: word(1),
            lba: word(2),
            write: word(3) as u32,
        })
    }

    fn data_is_whole(self, block: &[u8]) -> bool {
        let mut noise = Noise::of(self);
        block[HEADER..]
            .chunks_exact(8)
            .all(|place| place == noise.next().to_le_bytes())
    }
}

/// A block that is not what was acknowledged last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wrong {
    expected: Stamp,
    found: Found,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    Other(Stamp),
    Torn(Stamp),
    Zeros,
    Foreign,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stamp { seed, lba, write } = self.expected;
        write!(f, "block {lba} should hold its write {write}, but holds ")?;
        match self.found {
            Found::Zeros => write!(f, "zeros: the write was lost"),
            Found::Foreign => write!(f, "data that this program never wrote"),
            Found::Torn(_) => write!(f, "parts of two writes, or damaged data"),
            Found::Other(found) if found.seed != seed => {
                write!(f, "data of an earlier run: the write was lost")
            }
            Found::Other(found) if found.lba != lba => {
                write!(
                    f,
                    "write {} of block {}: it is misplaced",
                    found.write, found.lba
                )
            }
            Found::Other(found) if found.write < write => {
                write!(f, "write {}: the later one was lost", found.write)
            }
            Found::Other(found) => write!(f, "write {}, which was never acknowledged", found.write),
        }
    }
}

/// SplitMix64: any stamp is a good seed, and each word costs a nanosecond.
struct Noise(u64);

impl Noise {
    fn of(stamp: Stamp) -> Noise {
        let mut noise = Noise(stamp.seed);
        noise.0 = noise.next() ^ stamp.lba;
        noise.0 = noise.next() ^ u64::from(stamp.write);
        noise
    }

    #[inline]
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        seed: 7,
        lba: 40,
        write: 3,
    };

    fn said(of: Stamp, spoil: impl FnOnce(&mut [u8])) -> String {
        let mut block = [0; 512];
        of.fill(&mut block);
        spoil(&mut block);
        STAMP
            .check(&block)
            .map_or_else(|wrong| wrong.to_string(), |()| "right".into())
    }

    #[test]
    fn each_kind_of_wrong_has_its_name() {
        assert_eq!(said(STAMP, |_| ()), "right");
        assert!(said(STAMP, |block| block.fill(0)).contains("zeros"));
        assert!(said(STAMP, |block| block.fill(9)).contains("never wrote"));
        assert!(said(STAMP, |block| block[511] ^= 1).contains("damaged"));
        assert!(said(Stamp { write: 2, ..STAMP }, |_| ()).contains("the later one was lost"));
        assert!(said(Stamp { write: 4, ..STAMP }, |_| ()).contains("never acknowledged"));
        assert!(said(Stamp { lba: 41, ..STAMP }, |_| ()).contains("misplaced"));
        assert!(said(Stamp { seed: 8, ..STAMP }, |_| ()).contains("an earlier run"));
        let mut other = [0; 512];
        Stamp { write: 2, ..STAMP }.fill(&mut other);
        assert!(
            said(STAMP, |block| block[256..].copy_from_slice(&other[256..])).contains("two writes")
        );
    }
}
