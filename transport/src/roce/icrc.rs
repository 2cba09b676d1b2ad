//! The invariant CRC: Ethernet's CRC-32 over the packet and those parts of its IP and UDP headers
//! that no router changes (InfiniBand annex A17.3.3).
//!
//! It covers the identification of an IPv4 header, which a UDP socket never sees. It is chosen by us
//! when sending (see `udp`). When receiving, it is computed from the CRC: CRCs are linear, so the
//! sixteen unknown bits reach sixteen known differences of the 2^32 possible. A packet whose
//! difference is none of 2^16 is damaged, and 16 bits of checking are left. Over IPv6 all 32 are.

use std::net::{IpAddr, SocketAddr};

use crc32fast::Hasher;
use ferroce_wire::roce::{ICRC_LEN, PORT};

/// CRC-32 of eight bytes 0xFF, the place of a local route header.
const AFTER_LRH: u32 = 0x2144_DF1C;
/// CRC-32, reflected.
const POLYNOMIAL: u32 = 0xEDB8_8320;
/// Bytes of an IPv4 header behind its identification, and of a UDP header.
const BEHIND_ID: usize = 14 + 8;
/// The longest datagram whose identification can be computed, in bytes: far longer than a packet of
/// the largest MTU.
const LEN_MAX: usize = 4352;

/// The headers in front of the packets of one direction between two sockets, with 1s in place of
/// what may change on the way.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    bytes: [u8; 48],
    v4: bool,
}

/// What [`Flow::check`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checked {
    /// The packet is as it was sent, with the identification that was expected (or over IPv6).
    Whole,
    /// As far as sixteen bits can tell it is, with this identification.
    WithId(u16),
    /// It is damaged.
    Damaged,
}

impl Flow {
    /// Packets from one socket to port 4791 of an address.
    ///
    /// # Panics
    /// If one address is IPv4 and the other IPv6.
    pub fn new(from: SocketAddr, to: IpAddr) -> Flow {
        let mut bytes = [0xFF; 48];
        let v4 = match (from.ip(), to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes[0] = 0x45;
                // Never fragmented: DF is set and the offset is 0.
                bytes[6..8].copy_from_slice(&[0x40, 0]);
                bytes[9] = libc::IPPROTO_UDP as u8;
                bytes[12..16].copy_from_slice(&from.octets());
                bytes[16..20].copy_from_slice(&to.octets());
                true
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes[0] = 0x6F;
                bytes[6] = libc::IPPROTO_UDP as u8;
                bytes[8..24].copy_from_slice(&from.octets());
                bytes[24..40].copy_from_slice(&to.octets());
                false
            }
            _ => panic!("a flow has two addresses of one kind"),
        };
        let udp = if v4 { 20 } else { 40 };
        bytes[udp..udp + 2].copy_from_slice(&from.port().to_be_bytes());
        bytes[udp + 2..udp + 4].copy_from_slice(&PORT.to_be_bytes());
        Flow { bytes, v4 }
    }

    /// The ICRC of a packet whose first bytes, its BTH at least, are `head`, followed by `pieces`
    /// (payload and pad), with an identification (which IPv6 does not have).
    #[inline]
    pub fn icrc<'p>(
        &self,
        id: u16,
        head: &[u8],
        pieces: impl Iterator<Item = &'p [u8]> + Clone,
    ) -> u32 {
        let len = head.len() + pieces.clone().map(<[u8]>::len).sum::<usize>();
        let mut hasher = self.begin(id, len, head);
        for piece in pieces {
            hasher.update(piece);
        }
        hasher.finalize()
    }

    /// Hashes all up to the end of `head`, at most 64 bytes of it at once.
    #[inline]
    fn begin(&self, id: u16, len: usize, head: &[u8]) -> Hasher {
        let mut front = [0; 48 + 64];
        let udp = if self.v4 { 20 } else { 40 };
        front[..48].copy_from_slice(&self.bytes);
        let udp_len = (8 + len + ICRC_LEN) as u16;
        if self.v4 {
            front[2..4].copy_from_slice(&(20 + udp_len).to_be_bytes());
            front[4..6].copy_from_slice(&id.to_be_bytes());
        } else {
            front[4..6].copy_from_slice(&udp_len.to_be_bytes());
        }
        front[udp + 4..udp + 6].copy_from_slice(&udp_len.to_be_bytes());
        let bth = udp + 8;
        let (now, later) = head.split_at(head.len().min(64));
        front[bth..bth + now.len()].copy_from_slice(now);
        // Congestion bits change on the way.
        front[bth + 4] = 0xFF;
        let mut hasher = Hasher::new_with_initial(AFTER_LRH);
        hasher.update(&front[..bth + now.len()]);
        hasher.update(later);
        hasher
    }

    /// Checks a datagram: a BTH at least, and the ICRC at its end. `expected` is the identification
    /// that a peer like ourselves would have used.
    #[inline]
    pub fn check(&self, datagram: &[u8], expected: u16) -> Checked {
        let (packet, icrc) = datagram.split_at(datagram.len() - ICRC_LEN);
        let icrc = u32::from_le_bytes(icrc.try_into().expect("four bytes were split off"));
        let ours = self.begin(expected, packet.len(), packet).finalize();
        if ours == icrc {
            return Checked::Whole;
        }
        if !self.v4 || packet.len() > LEN_MAX {
            return Checked::Damaged;
        }
        // The register before the identification went in: its upper half is 0 if nothing else differs.
        let difference = multiply(ours ^ icrc, UNSHIFT[packet.len() + BEHIND_ID + 2]);
        if difference > 0xFFFF {
            return Checked::Damaged;
        }
        Checked::WithId(expected ^ (difference as u16).swap_bytes())
    }
}

/// The product of two polynomials of the CRC's field, in its reflected notation: 1 is the highest bit.
#[inline]
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= b & ((a >> bit) & 1).wrapping_neg();
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
    }
    product
}

/// What undoes so many zero bytes that went through the CRC: x to the power of -8n.
static UNSHIFT: [u32; LEN_MAX + BEHIND_ID + 3] = {
    let mut powers = [1 << 31; LEN_MAX + BEHIND_ID + 3];
    let mut i = 1;
    while i < powers.len() {
        let mut power: u32 = powers[i - 1];
        let mut bit = 0;
        while bit < 8 {
            power = if power >> 31 == 1 {
                ((power ^ POLYNOMIAL) << 1) | 1
            } else {
                power << 1
            };
            bit += 1;
        }
        powers[i] = power;
        i += 1;
    }
    powers
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roce::capture;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn flow(ip: &[u8]) -> Flow {
        let v4 = |at: usize| -> IpAddr {
            let octets: [u8; 4] = ip[at..at + 4].try_into().unwrap();
            Ipv4Addr::from(octets).into()
        };
        let port = u16::from_be_bytes([ip[20], ip[21]]);
        Flow::new(SocketAddr::new(v4(12), port), v4(16))
    }

    fn id(ip: &[u8]) -> u16 {
        u16::from_be_bytes([ip[4], ip[5]])
    }

    #[test]
    fn captured_packets_are_whole() {
        let mut strange = 0;
        for ip in capture::datagrams() {
            let (flow, datagram) = (flow(&ip), &ip[28..]);
            assert_eq!(flow.check(datagram, id(&ip)), Checked::Whole);
            for other in [0, 1, 0xFFFF, 0x1234] {
                if other != id(&ip) {
                    assert_eq!(flow.check(datagram, other), Checked::WithId(id(&ip)));
                    strange += 1;
                }
            }
            let (packet, icrc) = datagram.split_at(datagram.len() - 4);
            let built = flow.icrc(id(&ip), &packet[..12], std::iter::once(&packet[12..]));
            assert_eq!(built.to_le_bytes(), icrc);
        }
        assert!(strange > 40);
    }

    #[test]
    fn congestion_bits_do_not_count() {
        let ip = capture::datagrams().next().unwrap();
        let mut datagram = ip[28..].to_vec();
        datagram[4] ^= 0xC0;
        assert_eq!(flow(&ip).check(&datagram, id(&ip)), Checked::Whole);
    }

    /// Bursts of up to 16 bits are what remains certain to be found when the identification is
    /// unknown; other damage is found but for one in 2^16.
    #[test]
    fn damage_is_found() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut tried, mut missed) = (0, 0);
        for ip in capture::datagrams() {
            for _ in 0..100 {
                let mut datagram = ip[28..].to_vec();
                for _ in 0..random.usize(1..4) {
                    let at = random.usize(..datagram.len());
                    datagram[at] ^= 1 << random.u8(..8);
                }
                if datagram == ip[28..] || datagram[4] != ip[28 + 4] {
                    continue;
                }
                tried += 1;
                assert_ne!(flow(&ip).check(&datagram, id(&ip)), Checked::Whole);
                missed += usize::from(flow(&ip).check(&datagram, 0) != Checked::Damaged);
            }
        }
        assert!(tried > 2000 && missed <= 2, "{missed} of {tried}");
    }

    #[test]
    fn ipv6_has_no_identification() {
        let from = SocketAddr::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(), PORT);
        let flow = Flow::new(from, Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into());
        let mut datagram: Vec<u8> = (0..96).collect();
        // The same bytes, laid out as the annex says, through a plain CRC.
        let mut flat = vec![0xFF; 8];
        flat.extend([0x6F, 0xFF, 0xFF, 0xFF, 0, 108, 17, 0xFF]);
        flat.extend([0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        flat.extend([0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        flat.extend([0x12, 0xB7, 0x12, 0xB7, 0, 108, 0xFF, 0xFF]);
        flat.extend(&datagram);
        flat[56 + 4] = 0xFF;
        let icrc = crc32fast::hash(&flat);
        assert_eq!(
            flow.icrc(9, &datagram[..12], std::iter::once(&datagram[12..])),
            icrc
        );
        datagram.extend(icrc.to_le_bytes());
        assert_eq!(flow.check(&datagram, 9), Checked::Whole);
        datagram[50] ^= 1;
        assert_eq!(flow.check(&datagram, 9), Checked::Damaged);
    }
}
