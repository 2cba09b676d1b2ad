//! RoCEv2 packets: a datagram taken apart into its headers and payload, headers put together, and
//! packet sequence numbers.
//!
//! What a packet means to a queue pair is decided by `requester` and `responder`.

use ferroce_wire::Wire;
use ferroce_wire::num::{Be16, Be24, Be32, Be64};
use ferroce_wire::roce::{
    ACK_REQ, Aeth, AtomicEth, Bth, BthFlags, Deth, ICRC_LEN, Ieth, ImmDt, Opcode, PKEY_DEFAULT,
    Reth, Syndrome,
};

use crate::roce::counters::Dropped;

/// Packet sequence number: 24 bits that wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Psn(u32);

impl Psn {
    /// The low 24 bits of a number.
    pub const fn new(number: u32) -> Psn {
        Psn(number & Be24::MAX)
    }

    /// The number, below 2^24.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// So many packets later.
    #[must_use]
    pub const fn plus(self, packets: u32) -> Psn {
        Psn::new(self.0.wrapping_add(packets))
    }

    /// The one before.
    #[must_use]
    pub const fn before(self) -> Psn {
        Psn::new(self.0.wrapping_sub(1))
    }

    /// How far `self` is behind `from` in the order of sending: negative if it was sent earlier. Right as
    /// long as they are less than 2^23 apart.
    pub const fn since(self, from: Psn) -> i32 {
        ((self.0.wrapping_sub(from.0) << 8) as i32) >> 8
    }
}

/// Bytes of payload that one packet of a path carries: 256, 512, 1024, 2048 or 4096.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mtu(u8);

/// Bytes around the payload of the largest packet: BTH, RETH, ICRC, UDP and IPv6 headers, with some
/// to spare. The kernel's initiators reckon a little more generously.
const OVERHEAD: u32 = 80;

impl Mtu {
    /// The smallest.
    pub const MIN: Mtu = Mtu(1);
    /// The largest.
    pub const MAX: Mtu = Mtu(5);

    /// By its code in a REQ, 1 to 5.
    pub const fn from_code(code: u8) -> Option<Mtu> {
        if code >= 1 && code <= 5 {
            Some(Mtu(code))
        } else {
            None
        }
    }

    /// Its code in a REQ.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// In bytes.
    pub const fn bytes(self) -> u32 {
        128 << self.0
    }

    /// The largest that an interface of this MTU carries unfragmented; `None` if not even the
    /// smallest fits.
    pub fn of_interface(mtu: u32) -> Option<Mtu> {
        (1..=5)
            .rev()
            .map(Mtu)
            .find(|ib| ib.bytes() + OVERHEAD <= mtu)
    }
}

/// Packets that a message of `len` bytes takes: one at least.
pub const fn packets(len: u32, mtu: Mtu) -> u32 {
    let count = len.div_ceil(mtu.bytes());
    if count == 0 { 1 } else { count }
}

/// A packet, taken apart. The ICRC is not looked at here.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Base header.
    pub bth: &'a Bth,
    /// Of RDMA requests.
    pub reth: Option<&'a Reth>,
    /// Of acknowledgements and READ responses.
    pub aeth: Option<&'a Aeth>,
    /// Of sends that void a key.
    pub ieth: Option<&'a Ieth>,
    /// Of datagrams.
    pub deth: Option<&'a Deth>,
    /// What is carried, without pad.
    pub payload: &'a [u8],
}

/// The extension headers of an opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extension {
    None,
    Imm,
    Ieth,
    Reth,
    RethImm,
    Aeth,
    Deth,
    Atomic,
}

/// `None` for an opcode of a service we do not have.
const fn extension(opcode: Opcode) -> Option<Extension> {
    Some(match opcode {
        Opcode::SEND_FIRST
        | Opcode::SEND_MIDDLE
        | Opcode::SEND_LAST
        | Opcode::SEND_ONLY
        | Opcode::WRITE_MIDDLE
        | Opcode::WRITE_LAST
        | Opcode::READ_RESPONSE_MIDDLE
        | Opcode::CONGESTION => Extension::None,
        Opcode::SEND_LAST_IMM | Opcode::SEND_ONLY_IMM | Opcode::WRITE_LAST_IMM => Extension::Imm,
        Opcode::SEND_LAST_INVALIDATE | Opcode::SEND_ONLY_INVALIDATE => Extension::Ieth,
        Opcode::WRITE_FIRST | Opcode::WRITE_ONLY | Opcode::READ_REQUEST => Extension::Reth,
        Opcode::WRITE_ONLY_IMM => Extension::RethImm,
        Opcode::READ_RESPONSE_FIRST
        | Opcode::READ_RESPONSE_LAST
        | Opcode::READ_RESPONSE_ONLY
        | Opcode::ACKNOWLEDGE => Extension::Aeth,
        Opcode::UD_SEND_ONLY => Extension::Deth,
        Opcode::COMPARE_SWAP | Opcode::FETCH_ADD => Extension::Atomic,
        _ => return None,
    })
}

/// Takes a structure off the front of `rest`.
fn take<'a, T: Wire>(rest: &mut &'a [u8]) -> Result<&'a T, Dropped> {
    let header = T::view(rest).ok_or(Dropped::Short)?;
    *rest = &rest[T::LEN..];
    Ok(header)
}

/// Takes a datagram apart.
///
/// # Errors
/// Why the packet cannot be one of ours: too short for what its opcode says, an unknown opcode,
/// version or partition, or more pad than there are bytes.
pub fn parse(datagram: &[u8]) -> Result<Packet<'_>, Dropped> {
    let Some(mut rest) = datagram
        .len()
        .checked_sub(ICRC_LEN)
        .map(|len| &datagram[..len])
    else {
        return Err(Dropped::Short);
    };
    let rest = &mut rest;
    let bth = take::<Bth>(rest)?;
    if bth.flags.tver() != 0 {
        return Err(Dropped::Version);
    }
    if bth.pkey.get() & 0x7FFF != PKEY_DEFAULT & 0x7FFF {
        return Err(Dropped::Partition);
    }
    let mut packet = Packet {
        bth,
        reth: None,
        aeth: None,
        ieth: None,
        deth: None,
        payload: &[],
    };
    match extension(bth.opcode).ok_or(Dropped::Opcode)? {
        Extension::None => {}
        Extension::Imm => _ = take::<ImmDt>(rest)?,
        Extension::Ieth => packet.ieth = Some(take(rest)?),
        Extension::Reth => packet.reth = Some(take(rest)?),
        Extension::RethImm => {
            packet.reth = Some(take(rest)?);
            take::<ImmDt>(rest)?;
        }
        Extension::Aeth => packet.aeth = Some(take(rest)?),
        Extension::Deth => packet.deth = Some(take(rest)?),
        Extension::Atomic => _ = take::<AtomicEth>(rest)?,
    }
    let pad = usize::from(bth.flags.pad());
    let len = rest.len().checked_sub(pad).ok_or(Dropped::Short)?;
    if !datagram.len().is_multiple_of(4) {
        return Err(Dropped::Short);
    }
    packet.payload = &rest[..len];
    Ok(packet)
}

/// Room for the longest headers we send: BTH, RETH.
const HEAD_MAX: usize = 28;

/// The headers of a packet that is to be sent, as bytes.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; HEAD_MAX],
    len: u8,
}

impl Head {
    /// Of nothing yet.
    pub const EMPTY: Head = Head {
        bytes: [0; HEAD_MAX],
        len: 0,
    };

    /// A BTH for a payload of `payload_len` bytes.
    pub fn new(opcode: Opcode, dest_qpn: u32, psn: Psn, payload_len: usize) -> Head {
        let mut head = Head::EMPTY;
        head.push(&Bth {
            opcode,
            flags: BthFlags(0)
                .with_migrated(true)
                .with_pad(pad(payload_len) as u8),
            pkey: Be16::new(PKEY_DEFAULT),
            ecn: 0,
            dest_qpn: Be24::new(dest_qpn),
            ack_req: 0,
            psn: Be24::new(psn.get()),
        });
        head
    }

    /// With an acknowledgement asked for.
    #[must_use]
    pub fn ack_req(mut self, wanted: bool) -> Head {
        if wanted {
            Bth::view_mut(&mut self.bytes)
                .expect("a head begins with a BTH")
                .ack_req |= ACK_REQ;
        }
        self
    }

    /// With an RDMA header.
    #[must_use]
    pub fn reth(mut self, va: u64, rkey: u32, len: u32) -> Head {
        self.push(&Reth {
            va: Be64::new(va),
            rkey: Be32::new(rkey),
            len: Be32::new(len),
        });
        self
    }

    /// With an acknowledgement header; only the low 24 bits of `msn` count.
    #[must_use]
    pub fn aeth(mut self, syndrome: Syndrome, msn: u32) -> Head {
        self.push(&Aeth {
            syndrome,
            msn: Be24::new(msn & Be24::MAX),
        });
        self
    }

    /// With a key that is void on delivery.
    #[must_use]
    pub fn ieth(mut self, rkey: u32) -> Head {
        self.push(&Ieth {
            rkey: Be32::new(rkey),
        });
        self
    }

    /// With a datagram header.
    #[must_use]
    pub fn deth(mut self, qkey: u32, src_qpn: u32) -> Head {
        self.push(&Deth {
            qkey: Be32::new(qkey),
            rsvd4: 0,
            src_qpn: Be24::new(src_qpn),
        });
        self
    }

    fn push(&mut self, header: &impl Wire) {
        let (at, bytes) = (usize::from(self.len), header.as_bytes());
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }

    /// As they are sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The PSN in it.
    pub fn psn(&self) -> Psn {
        Psn::new(
            Bth::view(&self.bytes)
                .expect("a head begins with a BTH")
                .psn
                .get(),
        )
    }
}

/// Zero bytes behind a payload of this length.
pub const fn pad(payload_len: usize) -> usize {
    payload_len.wrapping_neg() & 3
}

/// Bytes of the whole datagram.
pub fn datagram_len(head: &Head, payload_len: usize) -> usize {
    head.bytes().len() + payload_len + pad(payload_len) + ICRC_LEN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roce::capture;

    #[test]
    fn psns_wrap() {
        let last = Psn::new(0xFF_FFFF);
        assert_eq!(last.plus(1), Psn::new(0));
        assert_eq!(Psn::new(0).before(), last);
        assert_eq!(Psn::new(3).since(last), 4);
        assert_eq!(last.since(Psn::new(3)), -4);
        assert_eq!(Psn::new(0x7F_FFFF).since(Psn::new(0)), 0x7F_FFFF);
        assert_eq!(Psn::new(0x80_0000).since(Psn::new(0)), -0x80_0000);
    }

    #[test]
    fn mtus() {
        for (interface, bytes) in [
            (65536, 4096),
            (9000, 4096),
            (4200, 4096),
            (1500, 1024),
            (1280, 1024),
            (576, 256),
        ] {
            let mtu = Mtu::of_interface(interface).expect("one fits");
            assert_eq!(mtu.bytes(), bytes);
            assert_eq!(Mtu::from_code(mtu.code()), Some(mtu));
        }
        assert_eq!(Mtu::of_interface(300), None);
        assert_eq!((Mtu::from_code(0), Mtu::from_code(6)), (None, None));
        assert_eq!(packets(0, Mtu::MIN), 1);
        assert_eq!(packets(256, Mtu::MIN), 1);
        assert_eq!(packets(257, Mtu::MIN), 2);
        assert_eq!(packets(u32::MAX, Mtu::MAX), 1 << 20);
    }

    /// Takes every packet of the capture apart and puts its headers together again.
    #[test]
    fn captured_packets_come_back() {
        let mut seen = std::collections::BTreeSet::new();
        for ip in capture::datagrams() {
            let datagram = &ip[28..];
            let packet = parse(datagram).expect("a proper packet");
            seen.insert(packet.bth.opcode);
            let mut head = Head::new(
                packet.bth.opcode,
                packet.bth.dest_qpn.get(),
                Psn::new(packet.bth.psn.get()),
                packet.payload.len(),
            )
            .ack_req(packet.bth.ack_req != 0);
            if let Some(reth) = packet.reth {
                head = head.reth(reth.va.get(), reth.rkey.get(), reth.len.get());
            }
            if let Some(aeth) = packet.aeth {
                head = head.aeth(aeth.syndrome, aeth.msn.get());
            }
            if let Some(ieth) = packet.ieth {
                head = head.ieth(ieth.rkey.get());
            }
            if let Some(deth) = packet.deth {
                head = head.deth(deth.qkey.get(), deth.src_qpn.get());
            }
            let len = head.bytes().len();
            let mut expected = datagram[..len].to_vec();
            // The peers differ in the migration state, and nobody minds.
            expected[1] |= 0x40;
            assert_eq!(head.bytes(), expected);
            assert_eq!(datagram_len(&head, packet.payload.len()), datagram.len());
            assert_eq!(head.psn().get(), packet.bth.psn.get());
        }
        assert!(seen.len() >= 11, "{seen:?}");
    }

    #[test]
    fn no_prefix_of_a_packet_panics() {
        for ip in capture::datagrams() {
            for len in 0..ip.len() - 28 {
                if let Ok(packet) = parse(&ip[28..28 + len]) {
                    assert!(packet.payload.len() + 16 <= len);
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..100_000 {
            let len = random.usize(..96);
            let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
            if len > 4 && random.bool() {
                // Past the first checks.
                bytes[0] = random.u8(..0x18);
                bytes[1] &= 0xF0;
                bytes[2..4].fill(0xFF);
            }
            if let Ok(packet) = parse(&bytes) {
                assert!(packet.payload.len() + 16 <= len);
            }
        }
    }

    #[test]
    fn what_is_refused() {
        let head = Head::new(Opcode::SEND_ONLY, 2, Psn::new(1), 0);
        let mut bytes = head.bytes().to_vec();
        bytes.extend([0; 4]);
        assert!(parse(&bytes).is_ok());
        let with = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            parse(&bytes).expect_err("refused")
        };
        assert_eq!(with(1, 0x41), Dropped::Version);
        assert_eq!(with(1, 0x50), Dropped::Short);
        assert_eq!(with(2, 0x12), Dropped::Partition);
        assert_eq!(with(0, 0x20), Dropped::Opcode);
        assert_eq!(with(0, 0x15), Dropped::Opcode);
        assert_eq!(with(0, 0x0C), Dropped::Short);
    }
}
