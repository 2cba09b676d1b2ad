//! Software RoCEv2: reliable connections of InfiniBand over UDP, without hardware or kernel modules.
//!
//! The inside is pure: packets and time in, packets and events out. From the bottom: [`packet`] and
//! [`icrc`] are the format; `requester` sends and `responder` receives, the two halves of a queue
//! pair; [`mad`] and [`cm`] make connections; [`device`] is one core's queue pairs. Around it, [`udp`]
//! has the sockets, and [`provider`] makes both a provider for the NVMe/RDMA binding.
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
pub mod provider;
mod requester;
mod responder;
pub mod udp;

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
