//! Software RoCEv2: reliable connections of InfiniBand over UDP, without hardware or kernel modules.
//!
//! The inside is pure: packets, completions and time in, packets and completions out. From the bottom:
//! [`packet`] and [`icrc`] are the format; `requester` sends and `responder` receives, the two halves
//! of a queue pair.
//!
//! Left out on purpose: atomics and immediate data (NVMe has no use for them), shared receive queues,
//! automatic path migration, unreliable services but for connection management.

pub mod cm;
pub mod counters;
pub mod device;
mod grants;
pub mod icrc;
pub mod mad;
pub mod packet;
pub mod payload;
mod requester;
mod responder;

/// Packets of a session of the Linux kernel's rxe.
#[cfg(test)]
mod capture {
    pub fn datagrams() -> impl Iterator<Item = Vec<u8>> {
        include_str!("capture.txt")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let digit = |c: u8| (c as char).to_digit(16).expect("hexadecimal") as u8;
                line.as_bytes()
                    .chunks(2)
                    .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
                    .collect()
            })
    }
}
