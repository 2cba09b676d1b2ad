//! What blocks hold: each is stamped with who wrote it and where, and filled so that a piece of another
//! block shows.

/// Names what a write put into its blocks; 0 is zeros.
pub type Content = u64;

const MAGIC: u64 = 0x6B63_6F6C_4265_5246;
const HEADER: usize = 24;

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// All of it is what this write put here.
    Whole(Content),
    /// It is no write's, or pieces of several; the first byte that does not belong.
    Broken(usize),
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn start(content: Content, lba: u64) -> u64 {
    (content ^ lba.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1
}

/// Fills a block.
pub fn fill(content: Content, lba: u64, block: &mut [u8]) {
    if content == 0 {
        block.fill(0);
        return;
    }
    block[..8].copy_from_slice(&MAGIC.to_le_bytes());
    block[8..16].copy_from_slice(&content.to_le_bytes());
    block[16..24].copy_from_slice(&lba.to_le_bytes());
    let mut state = start(content, lba);
    for word in block[HEADER..].chunks_exact_mut(8) {
        word.copy_from_slice(&next(&mut state).to_le_bytes());
    }
}

/// Fills blocks from `lba` on.
pub fn fill_all(content: Content, lba: u64, block_len: usize, data: &mut [u8]) {
    for (block, lba) in data.chunks_exact_mut(block_len).zip(lba..) {
        fill(content, lba, block);
    }
}

/// Looks at a block that was read from `lba`.
pub fn look(lba: u64, block: &[u8]) -> Found {
    let word = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"));
    if word(0) == 0 {
        return match block.iter().position(|byte| *byte != 0) {
            Some(at) => Found::Broken(at),
            None => Found::Whole(0),
        };
    }
    let content = word(8);
    if word(0) != MAGIC {
        return Found::Broken(0);
    }
    if word(16) != lba || content == 0 {
        return Found::Broken(16);
    }
    let mut state = start(content, lba);
    for at in (HEADER..block.len()).step_by(8) {
        if word(at) != next(&mut state) {
            return Found::Broken(at);
        }
    }
    Found::Whole(content)
}
