//! What both ends of NVMe/TCP share: where a PDU begins and ends, whether its header may be
//! believed, and how one is written.
//!
//! Receiving. Keep the bytes of a connection that were not used up in one contiguous slice and ask
//! [`parse`] about its front. [`Parsed::Need`] is the length the slice must have before it is worth
//! asking again. [`Parsed::Pdu`] gives the [`Shape`]: CH, flags, HLEN, PDO, PLEN and the header
//! digest were checked against what was agreed, so the header can be read with `Wire::read`, the
//! data lies at `data_at..data_at + data_len`, and its digest, if `ddgst`, in the four bytes behind.
//! A PDU whose data is large need not be whole: use up the first `data_at` bytes, feed the data in
//! pieces to a [`Crc`], and compare it with [`digest_at`] when the last four bytes are there.
//! What the fields behind CH mean (CCCID, TTAG, DATAO, ...) and whether the PDU may come now is for
//! `target.rs` and `host.rs` to say; both refuse with the same [`Fatal`].
//!
//! Sending. [`put`] appends a header, its digest and the padding to a byte vector; then comes the
//! data, then [`Crc::finish`] in four little-endian bytes if [`Digests::data`] is on and there was
//! data. [`put_term`] appends a TermReq.
//!
//! Which [`Format`] applies: before ICResp, `Format::default()`. After it, PDUs from the host are
//! aligned to CPDA and PDUs from the controller to HPDA; the digests are those of ICResp.

use ferroce_wire::Wire;
use ferroce_wire::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, DDGSTF, DGST_DATA, DGST_HEADER, DIGEST_LEN,
    Fes, H2cData, HDGSTF, IcReq, IcResp, PduType, R2t, TERM_DATA_MAX, TermReq, alignment,
};

/// The peer broke the protocol: what a TermReq tells it (NVMe/TCP 3.6.2.4, 3.6.2.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fatal {
    /// Fatal Error Status.
    pub fes: Fes,
    /// Fatal Error Information: the offset of the bad field, or the header digest received.
    pub fei: u32,
}

impl Fatal {
    /// The field at this offset of the header cannot be.
    pub const fn field(offset: u32) -> Fatal {
        Fatal {
            fes: Fes::INVALID_PDU_HEADER_FIELD,
            fei: offset,
        }
    }

    /// The parameter at this offset of ICReq or ICResp is not supported.
    pub const fn parameter(offset: u32) -> Fatal {
        Fatal {
            fes: Fes::UNSUPPORTED_PARAMETER,
            fei: offset,
        }
    }

    /// An error that has no further information.
    pub const fn of(fes: Fes) -> Fatal {
        Fatal { fes, fei: 0 }
    }
}

/// Offset of FLAGS in CH, for [`Fatal::field`].
pub const AT_FLAGS: u32 = 1;
/// Offset of HLEN.
pub const AT_HLEN: u32 = 2;
/// Offset of PDO.
pub const AT_PDO: u32 = 3;
/// Offset of PLEN.
pub const AT_PLEN: u32 = 4;

/// Which end wrote a PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// The host: ICReq, H2CTermReq, CapsuleCmd, H2CData.
    Host,
    /// The controller: ICResp, C2HTermReq, CapsuleResp, C2HData, R2T.
    Controller,
}

/// Digests that are on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    /// HDGST behind every header.
    pub header: bool,
    /// DDGST behind all data.
    pub data: bool,
}

impl Digests {
    /// As DGST of ICReq or ICResp says it. Reserved bits are ignored.
    pub const fn from_dgst(dgst: u8) -> Digests {
        Digests {
            header: dgst & DGST_HEADER != 0,
            data: dgst & DGST_DATA != 0,
        }
    }

    /// As DGST says it.
    pub const fn dgst(self) -> u8 {
        (if self.header { DGST_HEADER } else { 0 }) | (if self.data { DGST_DATA } else { 0 })
    }

    /// Bytes of a header digest: 4 or 0.
    pub const fn header_len(self) -> usize {
        if self.header { DIGEST_LEN } else { 0 }
    }

    /// Bytes of a data digest: 4 or 0.
    pub const fn data_len(self) -> usize {
        if self.data { DIGEST_LEN } else { 0 }
    }
}

/// How PDUs of one direction look on one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    /// Digests that are on.
    pub digests: Digests,
    /// PDO is a multiple of this many bytes: 4 to 128.
    pub align: u32,
}

impl Default for Format {
    fn default() -> Format {
        Format {
            digests: Digests::default(),
            align: 4,
        }
    }
}

impl Format {
    /// Of a direction whose receiver asked for this HPDA or CPDA; None above 31.
    pub const fn new(digests: Digests, pda: u8) -> Option<Format> {
        match alignment(pda) {
            Some(align) => Some(Format { digests, align }),
            None => None,
        }
    }

    /// PDO of a PDU with this HLEN that has data.
    pub const fn data_at(&self, hlen: usize) -> usize {
        (hlen + self.digests.header_len()).next_multiple_of(self.align as usize)
    }
}

/// Where the parts of a PDU lie, counted from its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// PDU-Type, one that the sender may use.
    pub kind: PduType,
    /// FLAGS as received.
    pub flags: u8,
    /// Where the data starts; the end of the PDU if there is none.
    pub data_at: usize,
    /// Bytes of data.
    pub data_len: usize,
    /// True if the data is followed by a digest.
    pub ddgst: bool,
    /// Bytes of all of it.
    pub plen: usize,
}

/// What [`parse`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// Ask again when there are this many bytes.
    Need(usize),
    /// The header is whole and right.
    Pdu(Shape),
}

/// Reads the header at the front of `bytes`, which `from` sent.
///
/// # Errors
/// What a TermReq should say. The header digest is checked before any field that it protects is
/// believed, but for HLEN and FLAGS, which say where it is.
#[inline]
pub fn parse(bytes: &[u8], from: Sender, format: &Format) -> Result<Parsed, Fatal> {
    let Some(ch) = CommonHeader::view(bytes) else {
        return Ok(Parsed::Need(CommonHeader::LEN));
    };
    let kind = ch.type_;
    let framing = Framing::of(kind, from).ok_or(Fatal::field(0))?;
    let hlen = kind.hlen().map_or(0, usize::from);
    if usize::from(ch.hlen) != hlen {
        return Err(Fatal::field(AT_HLEN));
    }
    let plen = ch.plen.get() as usize;
    let digests = match framing {
        Framing::Connection | Framing::Term => Digests::default(),
        Framing::Bare | Framing::Data => format.digests,
    };
    if digests.header != ch.has_hdgst() && matches!(framing, Framing::Bare | Framing::Data) {
        return Err(Fatal::field(AT_FLAGS));
    }
    let base = hlen + digests.header_len();
    if bytes.len() < base {
        return Ok(Parsed::Need(base));
    }
    if digests.header {
        let received = digest_at(bytes, hlen);
        if Crc::of(&bytes[..hlen]) != received {
            return Err(Fatal {
                fes: Fes::HEADER_DIGEST_ERROR,
                fei: received,
            });
        }
    }
    let bare = Shape {
        kind,
        flags: ch.flags,
        data_at: base,
        data_len: 0,
        ddgst: false,
        plen: base,
    };
    match framing {
        Framing::Connection | Framing::Bare if plen != base => Err(Fatal::field(AT_PLEN)),
        Framing::Connection | Framing::Bare => Ok(Parsed::Pdu(bare)),
        Framing::Term if plen < hlen || plen > hlen + TERM_DATA_MAX => Err(Fatal::field(AT_PLEN)),
        Framing::Term => Ok(Parsed::Pdu(Shape {
            data_at: hlen,
            data_len: plen - hlen,
            plen,
            ..bare
        })),
        // Without data PDO is reserved, and DDGSTF has nothing to speak of.
        Framing::Data if plen == base => Ok(Parsed::Pdu(bare)),
        Framing::Data if plen < base => Err(Fatal::field(AT_PLEN)),
        Framing::Data => {
            if digests.data != ch.has_ddgst() {
                return Err(Fatal::field(AT_FLAGS));
            }
            let data_at = usize::from(ch.pdo);
            if data_at < base || !data_at.is_multiple_of(format.align as usize) {
                return Err(Fatal::field(AT_PDO));
            }
            let around = data_at + digests.data_len();
            if plen <= around {
                return Err(Fatal::field(AT_PLEN));
            }
            Ok(Parsed::Pdu(Shape {
                data_at,
                data_len: plen - around,
                ddgst: digests.data,
                plen,
                ..bare
            }))
        }
    }
}

/// How PDUs of a type are built.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// ICReq and ICResp: a header of 128 bytes, never a digest.
    Connection,
    /// TermReq: the header of the offending PDU as data, never a digest.
    Term,
    /// A header, and its digest.
    Bare,
    /// A header, its digest, and perhaps data and its digest.
    Data,
}

impl Framing {
    /// None for a type that this end does not send.
    fn of(kind: PduType, from: Sender) -> Option<Framing> {
        Some(match (from, kind) {
            (Sender::Host, PduType::CAPSULE_CMD | PduType::H2C_DATA) => Framing::Data,
            (Sender::Host, PduType::IC_REQ) => Framing::Connection,
            (Sender::Host, PduType::H2C_TERM_REQ) => Framing::Term,
            (Sender::Controller, PduType::C2H_DATA) => Framing::Data,
            (Sender::Controller, PduType::CAPSULE_RESP | PduType::R2T) => Framing::Bare,
            (Sender::Controller, PduType::IC_RESP) => Framing::Connection,
            (Sender::Controller, PduType::C2H_TERM_REQ) => Framing::Term,
            (Sender::Host | Sender::Controller, _) => return None,
        })
    }
}

/// CRC32C of bytes that come in pieces (NVMe/TCP 3.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crc(u32);

impl Default for Crc {
    fn default() -> Crc {
        Crc::new()
    }
}

impl Crc {
    /// Of nothing yet.
    pub const fn new() -> Crc {
        Crc(u32::MAX)
    }

    /// Adds bytes.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        let mut digest = crc_fast::Digest::new_with_init_state(
            crc_fast::CrcAlgorithm::Crc32Iscsi,
            u64::from(self.0),
        );
        digest.update(bytes);
        self.0 = digest.get_state() as u32;
    }

    /// The digest of all of them; it is sent little-endian.
    pub const fn finish(self) -> u32 {
        !self.0
    }

    /// The digest of these bytes alone.
    #[inline]
    pub fn of(bytes: &[u8]) -> u32 {
        crc_fast::crc32_iscsi(bytes)
    }
}

/// The digest that was received at `at`. Panics if it was not, which the caller has checked.
#[inline]
pub fn digest_at(bytes: &[u8], at: usize) -> u32 {
    let bytes: [u8; DIGEST_LEN] = bytes[at..at + DIGEST_LEN]
        .try_into()
        .expect("the range has that length");
    u32::from_le_bytes(bytes)
}

/// The header of a PDU: a structure that starts with CH.
pub trait Pdu: Wire {
    /// PDU-Type.
    const KIND: PduType;
}

macro_rules! pdus {
    ($($T:ty = $kind:ident),* $(,)?) => {
        $(
            const _: () = assert!(core::mem::offset_of!($T, ch) == 0);
            impl Pdu for $T {
                const KIND: PduType = PduType::$kind;
            }
        )*
    };
}

pdus! {
    IcReq = IC_REQ,
    IcResp = IC_RESP,
    CapsuleCmd = CAPSULE_CMD,
    CapsuleResp = CAPSULE_RESP,
    H2cData = H2C_DATA,
    C2hData = C2H_DATA,
    R2t = R2T,
}

/// Appends a header that `data_len` bytes of data follow, its digest and the padding, filling in
/// all of CH but the flags that a digest does not set (LAST_PDU, SUCCESS): those are taken from
/// `pdu`. Returns how many bytes were appended.
#[inline]
pub fn put<P: Pdu>(out: &mut Vec<u8>, mut pdu: P, data_len: usize, format: &Format) -> usize {
    let digests = match P::KIND {
        PduType::IC_REQ | PduType::IC_RESP => Digests::default(),
        _ => format.digests,
    };
    let base = P::LEN + digests.header_len();
    let ch = CommonHeader::view_mut(pdu.as_bytes_mut()).expect("every PDU starts with CH");
    ch.type_ = P::KIND;
    ch.hlen = P::LEN as u8;
    if digests.header {
        ch.flags |= HDGSTF;
    }
    let data_at = if data_len == 0 {
        ch.pdo = 0;
        ch.plen.set(base as u32);
        base
    } else {
        let data_at = format.data_at(P::LEN);
        if digests.data {
            ch.flags |= DDGSTF;
        }
        ch.pdo = data_at as u8;
        ch.plen
            .set((data_at + data_len + digests.data_len()) as u32);
        data_at
    };
    let start = out.len();
    out.extend_from_slice(pdu.as_bytes());
    if digests.header {
        out.extend_from_slice(&Crc::of(pdu.as_bytes()).to_le_bytes());
    }
    if data_at > base {
        out.resize(start + data_at, 0);
    }
    data_at
}

/// Appends a TermReq of `kind` that shows as much of the offending header as fits. Returns how many
/// bytes were appended.
pub fn put_term(out: &mut Vec<u8>, kind: PduType, why: Fatal, offending: &[u8]) -> usize {
    let shown = &offending[..offending.len().min(TERM_DATA_MAX)];
    let term = TermReq::new(kind, why.fes, why.fei, shown.len());
    out.extend_from_slice(term.as_bytes());
    out.extend_from_slice(shown);
    TermReq::LEN + shown.len()
}

/// Bytes at the front of `bytes` that are the header of the PDU there, as far as it is there and
/// says so sensibly: what a TermReq shows of it.
pub fn header_of(bytes: &[u8]) -> &[u8] {
    let hlen = CommonHeader::view(bytes).map_or(CommonHeader::LEN, |ch| usize::from(ch.hlen));
    let len = hlen.clamp(CommonHeader::LEN, TERM_DATA_MAX);
    &bytes[..bytes.len().min(len)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferroce_wire::num::{U16, U32};
    use ferroce_wire::sqe::Sqe;

    fn capsule(data_len: usize, format: &Format) -> Vec<u8> {
        let mut bytes = Vec::new();
        let pdu = CapsuleCmd {
            sqe: Sqe::new(0x02).with_ids(7, 1),
            ..CapsuleCmd::default()
        };
        put(&mut bytes, pdu, data_len, format);
        let data: Vec<u8> = (0..data_len).map(|i| i as u8).collect();
        bytes.extend_from_slice(&data);
        if format.digests.data && data_len > 0 {
            bytes.extend_from_slice(&Crc::of(&data).to_le_bytes());
        }
        bytes
    }

    fn formats() -> impl Iterator<Item = Format> {
        [0u8, 1, 2, 3].into_iter().flat_map(|dgst| {
            (0..32).map(move |pda| Format::new(Digests::from_dgst(dgst), pda).unwrap())
        })
    }

    #[test]
    fn crc32c_is_the_one_of_iscsi() {
        assert_eq!(Crc::of(b"123456789"), 0xE306_9283);
        let mut crc = Crc::new();
        for piece in [&b"1"[..], b"", b"2345", b"6789"] {
            crc.update(piece);
        }
        assert_eq!(crc.finish(), 0xE306_9283);
    }

    #[test]
    fn what_is_put_is_parsed_in_every_format_and_at_every_length() {
        for format in formats() {
            for data_len in [0, 1, 200] {
                let bytes = capsule(data_len, &format);
                let mut asked = 0;
                for len in 0..bytes.len() {
                    match parse(&bytes[..len], Sender::Host, &format).unwrap() {
                        Parsed::Need(need) => {
                            assert!(need > len && need <= 76);
                            asked = need;
                        }
                        Parsed::Pdu(shape) => {
                            assert!(len >= asked);
                            assert_eq!(shape.plen, bytes.len());
                            assert_eq!(shape.data_len, data_len);
                            let data = &bytes[shape.data_at..shape.data_at + data_len];
                            assert!(data.iter().enumerate().all(|(i, byte)| *byte == i as u8));
                            if shape.ddgst {
                                let at = shape.data_at + data_len;
                                assert_eq!(digest_at(&bytes, at), Crc::of(data));
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_plain_capsule_is_72_bytes_and_a_linux_write_has_pdo_72() {
        let bytes = capsule(0, &Format::default());
        assert_eq!(bytes.len(), 72);
        assert_eq!(bytes[..8], [4, 0, 72, 0, 72, 0, 0, 0]);
        let bytes = capsule(4096, &Format::default());
        assert_eq!(bytes[..8], [4, 0, 72, 72, 72, 16, 0, 0]);
    }

    #[test]
    fn every_refusal_names_its_field() {
        let both = Format::new(Digests::from_dgst(3), 0).unwrap();
        let plain = Format::default();
        let wide = Format::new(Digests::default(), 15).unwrap();
        // Which format, which byte of CH is set to what, and what is said.
        let cases: [(Format, usize, u8, Fatal); 16] = [
            (plain, 0, 0x05, Fatal::field(0)), // A controller's PDU.
            (plain, 0, 0x08, Fatal::field(0)), // Nobody's.
            (plain, 0, 0xFF, Fatal::field(0)),
            (plain, 1, HDGSTF, Fatal::field(AT_FLAGS)),
            (plain, 1, DDGSTF, Fatal::field(AT_FLAGS)),
            (both, 1, 0, Fatal::field(AT_FLAGS)),
            (plain, 2, 71, Fatal::field(AT_HLEN)),
            (plain, 2, 0, Fatal::field(AT_HLEN)),
            (plain, 3, 0, Fatal::field(AT_PDO)),
            (plain, 3, 71, Fatal::field(AT_PDO)),
            (plain, 3, 73, Fatal::field(AT_PDO)),
            (wide, 3, 72, Fatal::field(AT_PDO)),
            (plain, 3, 128, Fatal::field(AT_PLEN)), // 72 + 8 bytes end before 128.
            (plain, 4, 71, Fatal::field(AT_PLEN)),
            (plain, 4, 0, Fatal::field(AT_PLEN)),
            (plain, 4, 73, Fatal::of(Fes(0))), // Fine: one byte of data.
        ];
        for (format, at, value, why) in cases {
            let mut bytes = capsule(8, &format);
            bytes[at] = value;
            let found = parse(&bytes, Sender::Host, &format);
            if why.fes == Fes(0) {
                assert!(found.is_ok());
            } else {
                assert_eq!(found, Err(why), "byte {at} = {value}");
            }
        }
        // Without data PDO is reserved, and a length that is too short is all that is wrong.
        for plen in [0, 71] {
            let mut bytes = capsule(0, &plain);
            bytes[4] = plen;
            let found = parse(&bytes, Sender::Host, &plain);
            assert_eq!(found, Err(Fatal::field(AT_PLEN)));
        }
    }

    #[test]
    fn a_header_digest_that_does_not_match_is_told_as_received() {
        let format = Format::new(Digests::from_dgst(1), 0).unwrap();
        let good = capsule(0, &format);
        for at in 3..72 {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            assert_eq!(
                parse(&bytes, Sender::Host, &format),
                Err(Fatal {
                    fes: Fes::HEADER_DIGEST_ERROR,
                    fei: digest_at(&good, 72),
                })
            );
        }
    }

    #[test]
    fn pdus_without_data_have_exactly_their_length() {
        let mut bytes = Vec::new();
        put(&mut bytes, IcReq::new(0, 0, 0), 0, &Format::default());
        assert_eq!(bytes.len(), 128);
        assert!(matches!(
            parse(&bytes, Sender::Host, &Format::default()),
            Ok(Parsed::Pdu(Shape { plen: 128, .. }))
        ));
        bytes[4] = 129;
        assert_eq!(
            parse(&bytes, Sender::Host, &Format::default()),
            Err(Fatal::field(AT_PLEN))
        );
        let mut bytes = Vec::new();
        put(&mut bytes, R2t::default(), 0, &Format::default());
        bytes[4] = 28;
        assert_eq!(
            parse(&bytes, Sender::Controller, &Format::default()),
            Err(Fatal::field(AT_PLEN))
        );
    }

    #[test]
    fn ic_and_term_pdus_never_have_digests() {
        let format = Format::new(Digests::from_dgst(3), 31).unwrap();
        let mut bytes = Vec::new();
        put(&mut bytes, IcResp::new(0, 3, 4096), 0, &format);
        assert_eq!(bytes.len(), 128);
        let why = Fatal::field(9);
        let len = put_term(&mut bytes, PduType::H2C_TERM_REQ, why, &[0xEE; 200]);
        assert_eq!(len, 24 + 128);
        let Ok(Parsed::Pdu(shape)) = parse(&bytes[128..], Sender::Host, &format) else {
            panic!("a TermReq is parsed")
        };
        assert_eq!((shape.data_at, shape.data_len), (24, 128));
        bytes[128 + 4] = 153;
        assert_eq!(
            parse(&bytes[128..], Sender::Host, &format),
            Err(Fatal::field(AT_PLEN))
        );
    }

    #[test]
    fn the_flags_of_the_caller_stay() {
        let mut bytes = Vec::new();
        let mut pdu = C2hData {
            cccid: U16::new(0x1234),
            datal: U32::new(4),
            ..C2hData::default()
        };
        pdu.ch.flags = ferroce_wire::tcp::LAST_PDU | ferroce_wire::tcp::SUCCESS;
        let format = Format::new(Digests::from_dgst(2), 0).unwrap();
        put(&mut bytes, pdu, 4, &format);
        assert_eq!(
            bytes,
            [
                7, 0x0E, 24, 24, 32, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0
            ]
        );
    }

    #[test]
    fn header_of_stays_inside_what_is_there() {
        assert_eq!(header_of(&[4, 0]), [4, 0]);
        assert_eq!(header_of(&[4, 0, 72, 0, 0, 0, 0, 0, 9]).len(), 9);
        assert_eq!(header_of(&[4, 0, 0, 0, 0, 0, 0, 0, 9]).len(), 8);
        assert_eq!(header_of(&[255; 300]).len(), 128);
    }
}
