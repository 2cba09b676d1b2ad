//! The target's PDU machine by state, with a scripted host: what is answered, what is refused and
//! how, in whatever pieces the bytes come.

use std::sync::Arc;

use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};
use ferroce_engine::port::{Fetch, Reply, Room, Tag};
use ferroce_transport::tcp::frame::{self, Crc, Digests, Format};
use ferroce_transport::tcp::target::{
    Answer, Arrival, IN_CAPSULE_MAX, MAXH2CDATA, Offer, State, Target, Took, answer, sqe_at,
};
use ferroce_wire::Wire;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::num::{U16, U32};
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;
use ferroce_wire::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, Fes, H2cData, IcReq, IcResp, LAST_PDU, PduType, R2t, SUCCESS,
    TermReq,
};

/// A target, the memory its engine would have, and what the host has got from it.
struct Bench {
    target: Target,
    pool: Pool,
    /// Bytes shown and not used up.
    carry: Vec<u8>,
    got: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Opened,
    Capsule(u16, Vec<u8>),
    Spoiled(u16),
    Fetched(u32, Vec<u8>, Status),
    Over,
    HungUp,
}

fn pool() -> Pool {
    let classes = [Class {
        size: 4096,
        count: 40,
    }];
    let region = Arc::new(Region::map(Pool::bytes(&classes), Want::default()).unwrap());
    Pool::new(region, 0, Home::CORE, &classes)
}

impl Bench {
    fn new() -> Bench {
        Bench::with(Offer::default())
    }

    fn with(offer: Offer) -> Bench {
        Bench {
            target: Target::new(offer),
            pool: pool(),
            carry: Vec::new(),
            got: Vec::new(),
        }
    }

    /// After the greeting of a host with these wishes.
    fn open(hpda: u8, dgst: u8, maxr2t_z: u32) -> Bench {
        let mut bench = Bench::new();
        let seen = bench.receive(&greeting(hpda, dgst, maxr2t_z));
        assert_eq!(seen, [Seen::Opened]);
        bench.send();
        assert_eq!(bench.got.len(), IcResp::LEN);
        bench.got.clear();
        bench
    }

    fn receive(&mut self, bytes: &[u8]) -> Vec<Seen> {
        self.carry.extend_from_slice(bytes);
        let mut seen = Vec::new();
        loop {
            let (used, took) = self.target.take(&self.carry, Room::Any);
            let shown: Vec<u8> = self.carry.drain(..used).collect();
            seen.push(match took {
                Took::Opened => Seen::Opened,
                Took::Capsule {
                    at,
                    data_at,
                    data_len,
                } => {
                    let data = shown[data_at..data_at + data_len].to_vec();
                    Seen::Capsule(sqe_at(&shown, at).cid.get(), data)
                }
                Took::Spoiled { at } => Seen::Spoiled(sqe_at(&shown, at).cid.get()),
                Took::Filled => {
                    let filled = self.target.filled().expect("it was told");
                    let mut data = vec![0; filled.bufs.len()];
                    filled.bufs.copy_out(0, &mut data);
                    self.pool.put_all(filled.bufs);
                    Seen::Fetched(filled.tag.slot, data, filled.status)
                }
                Took::Need(need) => {
                    assert!(need > self.carry.len(), "{need} are there already");
                    assert!(need <= IN_CAPSULE_MAX + 260);
                    return seen;
                }
                Took::NoRoom => panic!("there is room"),
                Took::Over => {
                    seen.push(Seen::Over);
                    return seen;
                }
                Took::HungUp => {
                    seen.push(Seen::HungUp);
                    return seen;
                }
            });
        }
    }

    /// Receives as a socket shell would: straight into Bufs where that is possible.
    fn receive_placed(&mut self, mut bytes: &[u8]) -> Vec<Seen> {
        let mut seen = Vec::new();
        while !bytes.is_empty() {
            let mut placed = 0;
            self.target.space(|place| {
                let count = place.len().min(bytes.len() - placed);
                place[..count].copy_from_slice(&bytes[placed..placed + count]);
                placed += count;
                placed < bytes.len()
            });
            self.target.placed(placed);
            let count = if placed > 0 {
                placed
            } else {
                bytes.len().min(100)
            };
            let shown = if placed > 0 { &[][..] } else { &bytes[..count] };
            seen.extend(self.receive(shown));
            bytes = &bytes[count..];
        }
        seen
    }

    fn send(&mut self) {
        self.send_by(usize::MAX);
    }

    /// Sends what waits, at most so many bytes at a time.
    fn send_by(&mut self, step: usize) {
        self.target.ask();
        while self.target.to_send() > 0 {
            let mut left = step;
            let got = &mut self.got;
            let before = got.len();
            self.target.gather(|piece| {
                let count = left.min(piece.len());
                got.extend_from_slice(&piece[..count]);
                left -= count;
                left > 0
            });
            let count = got.len() - before;
            assert!(count > 0);
            let pool = &mut self.pool;
            self.target.sent(count, &mut |bufs| pool.put_all(bufs));
        }
    }

    /// What the host has got since it was last asked, as one PDU.
    fn next<P: Wire>(&mut self) -> P {
        let pdu = P::read(&self.got).expect("a whole PDU");
        self.got.drain(..P::LEN);
        pdu
    }

    fn bufs(&mut self, lens: &[usize]) -> BufList {
        let mut bufs = BufList::new();
        for (at, len) in lens.iter().enumerate() {
            let mut buf = self.pool.take(*len).unwrap();
            buf.bytes_mut().fill(at as u8 + 1);
            bufs.push(buf);
        }
        bufs
    }

    fn fetch(&mut self, slot: u32, cid: u16, offset: u32, lens: &[usize]) {
        let bufs = self.bufs(lens);
        let back = self.target.fetch(Fetch {
            tag: Tag {
                slot,
                generation: 0,
            },
            cid,
            sgl: Sgl::NONE,
            offset,
            bufs,
        });
        assert!(back.is_none());
    }

    fn reply(&mut self, cid: u16, lens: &[usize], last: bool, cqe: bool, elide: bool) {
        let bufs = self.bufs(lens);
        let back = self.target.reply(Reply {
            cid,
            sgl: Sgl::NONE,
            offset: 0,
            bufs,
            last,
            cqe: cqe.then(|| Cqe::new(cid, Status::SUCCESS)),
            may_elide_cqe: elide,
        });
        assert!(back.is_none_or(|bufs| bufs.is_empty()));
    }

    /// The TermReq that answers `bytes`, and nothing else.
    fn refusal(mut self, bytes: &[u8]) -> (Fes, u32) {
        let seen = self.receive(bytes);
        assert_eq!(seen, [Seen::Over]);
        self.send();
        let term: TermReq = self.next();
        assert_eq!(term.ch.type_, PduType::C2H_TERM_REQ);
        assert_eq!(term.ch.plen.get() as usize, TermReq::LEN + self.got.len());
        assert!(
            bytes.starts_with(&self.got),
            "the offending header is shown"
        );
        assert!(self.receive(&greeting(0, 0, 0)) == [Seen::Over]);
        self.target.give_up(&mut |bufs| self.pool.put_all(bufs));
        assert_eq!(self.pool.out(), 0);
        (term.fes(), term.fei.get())
    }
}

fn greeting(hpda: u8, dgst: u8, maxr2t_z: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let request = IcReq::new(hpda, dgst, maxr2t_z);
    frame::put(&mut bytes, request, 0, &Format::default());
    bytes
}

fn format(dgst: u8) -> Format {
    Format::new(Digests::from_dgst(dgst), 0).unwrap()
}

fn with_data<P: frame::Pdu>(pdu: P, data: &[u8], format: &Format) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::put(&mut bytes, pdu, data.len(), format);
    bytes.extend_from_slice(data);
    if format.digests.data && !data.is_empty() {
        bytes.extend_from_slice(&Crc::of(data).to_le_bytes());
    }
    bytes
}

fn capsule(cid: u16, data: &[u8], format: &Format) -> Vec<u8> {
    let pdu = CapsuleCmd {
        sqe: Sqe::new(1).with_ids(cid, 1),
        ..CapsuleCmd::default()
    };
    with_data(pdu, data, format)
}

fn h2c(cid: u16, ttag: u16, offset: u32, data: &[u8], last: bool, format: &Format) -> Vec<u8> {
    let mut pdu = H2cData {
        cccid: U16::new(cid),
        ttag: U16::new(ttag),
        datao: U32::new(offset),
        datal: U32::new(data.len() as u32),
        ..H2cData::default()
    };
    pdu.ch.flags = if last { LAST_PDU } else { 0 };
    with_data(pdu, data, format)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 251 + i) as u8).collect()
}

#[test]
fn the_table_is_this() {
    let states = [State::Greeting, State::Open, State::Over];
    let arrivals = [
        Arrival::IcReq,
        Arrival::TermReq,
        Arrival::Capsule,
        Arrival::Data,
    ];
    let mut table = String::new();
    for state in states {
        for arrival in arrivals {
            let does = match answer(state, arrival) {
                Answer::Refuse(fes) => format!("refuse: {fes}"),
                other => format!("{other:?}"),
            };
            table += &format!("{state:?} + {arrival:?}: {does}\n");
        }
    }
    let expected = "\
Greeting + IcReq: Greet
Greeting + TermReq: HangUp
Greeting + Capsule: refuse: PDU Sequence Error (0002h)
Greeting + Data: refuse: PDU Sequence Error (0002h)
Open + IcReq: refuse: PDU Sequence Error (0002h)
Open + TermReq: HangUp
Open + Capsule: Execute
Open + Data: Place
Over + IcReq: Ignore
Over + TermReq: Ignore
Over + Capsule: Ignore
Over + Data: Ignore
";
    assert_eq!(table, expected);
}

mod greeting {
    use super::*;

    #[test]
    fn linux_is_answered() {
        let mut bench = Bench::new();
        let mut request = [0u8; 128];
        request[..8].copy_from_slice(&[0, 0, 128, 0, 128, 0, 0, 0]);
        assert_eq!(bench.receive(&request), [Seen::Opened]);
        bench.send();
        let mut response = [0u8; 128];
        response[..8].copy_from_slice(&[1, 0, 128, 0, 128, 0, 0, 0]);
        response[12..16].copy_from_slice(&MAXH2CDATA.to_le_bytes());
        assert_eq!(bench.got, response);
    }

    #[test]
    fn only_digests_that_are_offered_are_turned_on() {
        for asked in 0..4u8 {
            for offered in 0..4u8 {
                let mut bench = Bench::with(Offer {
                    digests: Digests::from_dgst(offered),
                    cpda: 0,
                });
                bench.receive(&greeting(0, asked | 0xF0, 0));
                bench.send();
                let response: IcResp = bench.next();
                assert_eq!(response.dgst, asked & offered);
                bench.reply(1, &[], true, true, false);
                bench.send();
                assert_eq!(bench.got.len(), 24 + 4 * usize::from(asked & offered & 1));
            }
        }
    }

    #[test]
    fn refusals() {
        let mut request = greeting(0, 0, 0);
        request[8] = 1;
        let told = Bench::new().refusal(&request);
        assert_eq!(told, (Fes::UNSUPPORTED_PARAMETER, 8));
        let told = Bench::new().refusal(&greeting(32, 0, 0));
        assert_eq!(told, (Fes::INVALID_PDU_HEADER_FIELD, 10));
        let told = Bench::new().refusal(&capsule(1, b"", &Format::default()));
        assert_eq!(told, (Fes::PDU_SEQUENCE_ERROR, 0));
        let told = Bench::new().refusal(&h2c(1, 0, 0, b"x", true, &Format::default()));
        assert_eq!(told, (Fes::PDU_SEQUENCE_ERROR, 0));
        for (at, value, fei) in [(0, 1, 0), (0, 9, 0), (2, 127, 2), (4, 127, 4), (7, 1, 4)] {
            let mut request = greeting(0, 0, 0);
            request[at] = value;
            let told = Bench::new().refusal(&request);
            assert_eq!(told, (Fes::INVALID_PDU_HEADER_FIELD, fei), "byte {at}");
        }
        // TLS, HTTP and SSH came to the wrong port.
        for bytes in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..],
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let told = Bench::new().refusal(bytes);
            assert_eq!(told, (Fes::INVALID_PDU_HEADER_FIELD, 0));
        }
    }

    #[test]
    fn a_host_may_hang_up_at_once() {
        let mut bytes = Vec::new();
        frame::put_term(
            &mut bytes,
            PduType::H2C_TERM_REQ,
            frame::Fatal::field(8),
            &[0; 128],
        );
        assert_eq!(Bench::new().receive(&bytes), [Seen::HungUp]);
    }

    #[test]
    fn a_termreq_of_a_wrong_length_is_not_answered() {
        for plen in [0u32, 23, 153, u32::MAX] {
            let mut bytes = vec![0; TermReq::LEN];
            bytes[..3].copy_from_slice(&[PduType::H2C_TERM_REQ.0, 0, 24]);
            bytes[4..8].copy_from_slice(&plen.to_le_bytes());
            for mut bench in [Bench::new(), Bench::open(0, 3, 0)] {
                assert_eq!(bench.receive(&bytes), [Seen::HungUp], "{plen}");
                bench.send();
                assert!(bench.got.is_empty());
            }
        }
    }
}

mod open {
    use super::*;

    #[test]
    fn a_read_is_answered_by_data_and_completion() {
        let mut bench = Bench::open(0, 0, 0);
        let seen = bench.receive(&capsule(0x0102, b"", &Format::default()));
        assert_eq!(seen, [Seen::Capsule(0x0102, vec![])]);
        bench.reply(0x0102, &[512], true, true, false);
        bench.send();
        assert_eq!(
            bench.got[..24],
            [
                7, 4, 24, 24, 0x18, 2, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0
            ]
        );
        assert_eq!(bench.got[24..24 + 512], [1; 512]);
        assert_eq!(
            bench.got[24 + 512..],
            [
                5, 0, 24, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0
            ]
        );
        assert_eq!(bench.pool.out(), 0);
    }

    #[test]
    fn success_is_said_in_the_data_only_where_it_may_be_and_at_the_end() {
        // What is given: last, with a completion, may be elided. What comes: flags, a completion.
        let cases = [
            (true, true, true, LAST_PDU | SUCCESS, false),
            (true, true, false, LAST_PDU, true),
            (true, false, true, LAST_PDU, false),
            (false, false, true, 0, false),
        ];
        for (last, cqe, elide, flags, response) in cases {
            let mut bench = Bench::open(0, 0, 0);
            bench.reply(5, &[8], last, cqe, elide);
            bench.send();
            let pdu: C2hData = bench.next();
            assert_eq!(pdu.ch.flags, flags);
            bench.got.drain(..8);
            assert_eq!(bench.got.len(), if response { 24 } else { 0 });
        }
        // Without data there is nothing to say it in.
        let mut bench = Bench::open(0, 0, 0);
        bench.reply(5, &[], true, true, true);
        bench.send();
        let pdu: CapsuleResp = bench.next();
        assert_eq!(pdu.cqe.cid.get(), 5);
    }

    #[test]
    fn data_to_the_host_is_aligned_and_digested_as_it_asked() {
        for hpda in 0..32u8 {
            let mut bench = Bench::open(hpda, 3, 0);
            bench.reply(5, &[100, 28], true, true, false);
            bench.send();
            let pdu: C2hData = bench.next();
            let align = (usize::from(hpda) + 1) * 4;
            let data_at = usize::from(pdu.ch.pdo);
            assert!(data_at.is_multiple_of(align) && data_at >= 28 && data_at < 28 + align);
            assert_eq!(pdu.ch.plen.get() as usize, data_at + 128 + 4);
            let rest = &bench.got[..];
            assert_eq!(frame::digest_at(rest, 0), Crc::of(pdu.as_bytes()));
            assert!(rest[4..data_at - 24].iter().all(|byte| *byte == 0));
            let data = &rest[data_at - 24..][..128];
            assert_eq!((data[0], data[100]), (1, 2));
            assert_eq!(frame::digest_at(rest, data_at - 24 + 128), Crc::of(data));
            assert_eq!(rest.len(), data_at - 24 + 128 + 4 + 28);
        }
    }

    #[test]
    fn in_capsule_data_has_a_bound() {
        for dgst in 0..4 {
            let format = format(dgst);
            let data = pattern(IN_CAPSULE_MAX);
            let mut bench = Bench::open(0, dgst, 0);
            let seen = bench.receive(&capsule(1, &data, &format));
            assert_eq!(seen, [Seen::Capsule(1, data)]);
            let told = bench.refusal(&capsule(2, &pattern(IN_CAPSULE_MAX + 1), &format));
            assert_eq!(told, (Fes::INVALID_PDU_HEADER_FIELD, 4));
        }
    }

    #[test]
    fn a_second_greeting_and_controllers_pdus_are_refused() {
        let told = Bench::open(0, 0, 0).refusal(&greeting(0, 0, 0));
        assert_eq!(told, (Fes::PDU_SEQUENCE_ERROR, 0));
        for kind in (0..=255u8).filter(|kind| ![0, 2, 4, 6].contains(kind)) {
            let mut bytes = capsule(1, b"", &Format::default());
            bytes[0] = kind;
            let told = Bench::open(0, 0, 0).refusal(&bytes);
            assert_eq!(told, (Fes::INVALID_PDU_HEADER_FIELD, 0), "type {kind}");
        }
    }

    #[test]
    fn a_wrong_header_digest_is_fatal_and_told() {
        let bytes = capsule(1, b"", &format(1));
        let digest = frame::digest_at(&bytes, 72);
        let mut wrong = bytes.clone();
        wrong[20] ^= 1;
        let told = Bench::open(0, 1, 0).refusal(&wrong);
        assert_eq!(told, (Fes::HEADER_DIGEST_ERROR, digest));
    }

    #[test]
    fn a_wrong_data_digest_spoils_the_command_alone() {
        for dgst in [2, 3] {
            let mut bench = Bench::open(0, dgst, 0);
            let mut bytes = capsule(1, b"data", &format(dgst));
            let end = bytes.len();
            bytes[end - 1] ^= 0x80;
            bytes.extend(capsule(2, b"good", &format(dgst)));
            let seen = bench.receive(&bytes);
            assert_eq!(seen, [Seen::Spoiled(1), Seen::Capsule(2, b"good".to_vec())]);
        }
    }

    #[test]
    fn without_room_commands_wait_but_data_does_not() {
        let mut bench = Bench::open(0, 0, 0);
        bench.fetch(1, 7, 0, &[100]);
        bench.send();
        let r2t: R2t = bench.next();
        let mut bytes = h2c(7, r2t.ttag.get(), 0, &[9; 100], true, &Format::default());
        let first = bytes.len();
        bytes.extend(capsule(8, b"", &Format::default()));
        let (used, took) = bench.target.take(&bytes, Room::None);
        assert!(took == Took::Filled && used == first);
        assert_eq!(bench.target.filled().unwrap().bufs.len(), 100);
        let (used, took) = bench.target.take(&bytes[first..], Room::None);
        assert!(matches!(took, Took::NoRoom) && used == 0);
        let (used, took) = bench.target.take(&bytes[first..], Room::Any);
        assert!(matches!(took, Took::Capsule { .. }) && used == 72);
    }
}

mod transfers {
    use super::*;

    #[test]
    fn neighbours_share_an_r2t_and_each_is_reported() {
        let mut bench = Bench::open(0, 0, 0);
        bench.fetch(1, 7, 0, &[4096, 4096]);
        bench.fetch(2, 7, 8192, &[100]);
        bench.fetch(3, 8, 8292, &[50]);
        bench.fetch(4, 7, 9000, &[10]);
        bench.send();
        let one: R2t = bench.next();
        let two: R2t = bench.next();
        assert!(bench.got.is_empty(), "one at a time of a command");
        assert_eq!(
            (one.cccid.get(), one.r2to.get(), one.r2tl.get()),
            (7, 0, 8292)
        );
        assert_eq!(
            (two.cccid.get(), two.r2to.get(), two.r2tl.get()),
            (8, 8292, 50)
        );

        let data = pattern(8292);
        let plain = Format::default();
        let ttag = one.ttag.get();
        let seen = bench.receive(&h2c(7, ttag, 0, &data[..8000], false, &plain));
        assert_eq!(seen, []);
        let seen = bench.receive(&h2c(8, two.ttag.get(), 8292, &[5; 50], true, &plain));
        assert_eq!(seen, [Seen::Fetched(3, vec![5; 50], Status::SUCCESS)]);
        let seen = bench.receive(&h2c(7, ttag, 8000, &data[8000..], true, &plain));
        let expected = [
            Seen::Fetched(1, data[..8192].to_vec(), Status::SUCCESS),
            Seen::Fetched(2, data[8192..].to_vec(), Status::SUCCESS),
        ];
        assert_eq!(seen, expected);
        assert!(bench.target.wants_to_ask());
        bench.send();
        let three: R2t = bench.next();
        assert_eq!(
            (three.cccid.get(), three.r2to.get(), three.r2tl.get()),
            (7, 9000, 10)
        );
        assert_ne!(three.ttag.get(), ttag, "a TTAG is not used again at once");
        let seen = bench.receive(&h2c(7, three.ttag.get(), 9000, &[6; 10], true, &plain));
        assert_eq!(seen, [Seen::Fetched(4, vec![6; 10], Status::SUCCESS)]);
        assert_eq!(bench.pool.out(), 0);
    }

    #[test]
    fn a_host_that_allows_more_r2ts_gets_more() {
        for (maxr2t_z, out) in [(0u32, 1usize), (1, 2), (3, 4), (u32::MAX, 5)] {
            let mut bench = Bench::open(0, 0, maxr2t_z);
            for part in 0..5u32 {
                bench.fetch(part, 7, part * 1000, &[10]);
            }
            bench.send();
            assert_eq!(bench.got.len(), out * R2t::LEN);
        }
    }

    #[test]
    fn refusals() {
        let plain = Format::default();
        // CCCID, TTAG (added to the right one), DATAO, length, LAST_PDU, and what is said.
        type Case = (u16, u16, u32, usize, bool, (Fes, u32));
        let cases: [Case; 12] = [
            (8, 0, 0, 100, true, (Fes::INVALID_PDU_HEADER_FIELD, 8)),
            (7, 1, 0, 100, true, (Fes::INVALID_PDU_HEADER_FIELD, 10)),
            (7, 0x1000, 0, 100, true, (Fes::INVALID_PDU_HEADER_FIELD, 10)),
            (7, 0xFFFF, 0, 100, true, (Fes::INVALID_PDU_HEADER_FIELD, 10)),
            // What was asked for, but not next.
            (7, 0, 4, 96, true, (Fes::PDU_SEQUENCE_ERROR, 0)),
            (7, 0, 0, 104, true, (Fes::DATA_TRANSFER_OUT_OF_RANGE, 0)),
            (7, 0, 4, 100, true, (Fes::DATA_TRANSFER_OUT_OF_RANGE, 0)),
            (
                7,
                0,
                u32::MAX - 3,
                8,
                true,
                (Fes::DATA_TRANSFER_OUT_OF_RANGE, 0),
            ),
            (7, 0, 0, 0, true, (Fes::INVALID_PDU_HEADER_FIELD, 16)),
            (7, 0, 0, 50, true, (Fes::INVALID_PDU_HEADER_FIELD, 1)),
            (7, 0, 0, 100, false, (Fes::INVALID_PDU_HEADER_FIELD, 1)),
            (
                7,
                0,
                0,
                MAXH2CDATA as usize + 4,
                true,
                (Fes::DATA_TRANSFER_LIMIT_EXCEEDED, 0),
            ),
        ];
        for (cid, ttag, offset, len, last, expected) in cases {
            let mut bench = Bench::open(0, 0, 0);
            bench.fetch(1, 7, 0, &[100]);
            bench.send();
            let r2t: R2t = bench.next();
            let ttag = r2t.ttag.get().wrapping_add(ttag);
            let bytes = h2c(cid, ttag, offset, &vec![1; len], last, &plain);
            assert_eq!(
                bench.refusal(&bytes),
                expected,
                "{cid} {ttag} {offset} {len} {last}"
            );
        }
        // DATAL that is not what PLEN says.
        let mut bench = Bench::open(0, 0, 0);
        bench.fetch(1, 7, 0, &[100]);
        bench.send();
        let r2t: R2t = bench.next();
        let mut bytes = h2c(7, r2t.ttag.get(), 0, &[1; 100], true, &plain);
        bytes[16] = 99;
        assert_eq!(bench.refusal(&bytes), (Fes::INVALID_PDU_HEADER_FIELD, 16));
        // A TTAG before its R2T is out, and after it is done.
        let mut bench = Bench::open(0, 0, 0);
        bench.fetch(1, 7, 0, &[100]);
        let bytes = h2c(7, 0, 0, &[1; 100], true, &plain);
        assert_eq!(bench.refusal(&bytes), (Fes::INVALID_PDU_HEADER_FIELD, 10));
        let mut bench = Bench::open(0, 0, 0);
        bench.fetch(1, 7, 0, &[100]);
        bench.send();
        let r2t: R2t = bench.next();
        let bytes = h2c(7, r2t.ttag.get(), 0, &[1; 100], true, &plain);
        assert_eq!(bench.receive(&bytes).len(), 1);
        assert_eq!(bench.refusal(&bytes), (Fes::INVALID_PDU_HEADER_FIELD, 10));
    }

    #[test]
    fn a_wrong_digest_spoils_what_it_covers_and_what_follows_but_not_what_was_reported() {
        let format = format(2);
        let mut bench = Bench::open(0, 2, 0);
        for part in 0..3u32 {
            bench.fetch(part, 7, part * 100, &[100]);
        }
        bench.send();
        let r2t: R2t = bench.next();
        let ttag = r2t.ttag.get();
        let seen = bench.receive(&h2c(7, ttag, 0, &[1; 100], false, &format));
        assert_eq!(seen, [Seen::Fetched(0, vec![1; 100], Status::SUCCESS)]);
        let mut bytes = h2c(7, ttag, 100, &[2; 150], false, &format);
        bytes[100] ^= 1;
        let end = bytes.len();
        assert_eq!(
            bench.receive(&bytes[..end - 1]),
            [],
            "not before the digest"
        );
        let seen = bench.receive(&bytes[end - 1..]);
        let Seen::Fetched(1, _, status) = &seen[0] else {
            panic!("{seen:?}")
        };
        assert_eq!(*status, Status::TRANSIENT_TRANSPORT_ERROR);
        let seen = bench.receive(&h2c(7, ttag, 250, &[3; 50], true, &format));
        assert!(
            matches!(&seen[..], [Seen::Fetched(2, _, status)] if *status == Status::TRANSIENT_TRANSPORT_ERROR)
        );
        // The connection lives on.
        let seen = bench.receive(&capsule(9, b"", &format));
        assert_eq!(seen, [Seen::Capsule(9, vec![])]);
    }
}

mod pieces {
    use super::*;

    /// A conversation: what the host sends, and what must be seen, given that fetches were made.
    fn prepare(dgst: u8) -> (Bench, Vec<u8>, Vec<Seen>) {
        let mut bench = Bench::open(0, dgst, 0);
        bench.fetch(1, 7, 0, &[4096, 1000]);
        bench.fetch(2, 7, 5096, &[3]);
        bench.fetch(3, 8, 40, &[700, 1]);
        bench.send();
        let header = format(dgst).digests.header_len();
        let one: R2t = bench.next();
        bench.got.drain(..header);
        let two: R2t = bench.next();
        bench.got.clear();
        let format = format(dgst);
        let data = pattern(5099);
        let mut bytes = capsule(1, b"", &format);
        bytes.extend(h2c(7, one.ttag.get(), 0, &data[..5097], false, &format));
        bytes.extend(capsule(2, &pattern(513), &format));
        bytes.extend(h2c(8, two.ttag.get(), 40, &data[..701], true, &format));
        bytes.extend(h2c(7, one.ttag.get(), 5097, &data[5097..], true, &format));
        bytes.extend(capsule(3, b"x", &format));
        let seen = vec![
            Seen::Capsule(1, vec![]),
            Seen::Fetched(1, data[..5096].to_vec(), Status::SUCCESS),
            Seen::Capsule(2, pattern(513)),
            Seen::Fetched(3, data[..701].to_vec(), Status::SUCCESS),
            Seen::Fetched(2, data[5096..].to_vec(), Status::SUCCESS),
            Seen::Capsule(3, b"x".to_vec()),
        ];
        (bench, bytes, seen)
    }

    #[test]
    fn of_every_length_are_the_same() {
        for dgst in 0..4 {
            let lens = (1..150).chain((150..7000).step_by(97));
            for len in lens {
                for placed in [false, true] {
                    let (mut bench, bytes, expected) = prepare(dgst);
                    let mut seen = Vec::new();
                    for piece in bytes.chunks(len) {
                        seen.extend(if placed {
                            bench.receive_placed(piece)
                        } else {
                            bench.receive(piece)
                        });
                    }
                    assert!(
                        seen == expected,
                        "pieces of {len}, digests {dgst}: {seen:?}"
                    );
                    assert_eq!(bench.pool.out(), 0);
                    assert!(bench.carry.is_empty());
                }
            }
        }
    }

    #[test]
    fn cut_anywhere_every_buf_comes_home() {
        for dgst in [0, 3] {
            let (_, bytes, _) = prepare(dgst);
            for cut in (0..=bytes.len()).step_by(7) {
                let (mut bench, bytes, _) = prepare(dgst);
                bench.receive_placed(&bytes[..cut]);
                bench.reply(1, &[4096, 20], true, true, false);
                bench.reply(2, &[600], true, true, false);
                let pool = &mut bench.pool;
                let count = cut.min(bench.target.to_send());
                bench.target.sent(count, &mut |bufs| pool.put_all(bufs));
                bench.target.give_up(&mut |bufs| pool.put_all(bufs));
                assert_eq!(bench.pool.out(), 0, "cut at {cut}");
                let bufs = bench.bufs(&[10, 20]);
                let tag = Tag {
                    slot: 0,
                    generation: 0,
                };
                let (sgl, offset) = (Sgl::NONE, 0);
                let back = bench.target.fetch(Fetch {
                    tag,
                    cid: 1,
                    sgl,
                    offset,
                    bufs,
                });
                bench.pool.put_all(back.expect("nobody asks any more"));
                assert_eq!(bench.pool.out(), 0);
            }
        }
    }

    #[test]
    fn sent_in_any_length_are_the_same_bytes() {
        let script = |bench: &mut Bench| {
            for round in 0..6u16 {
                bench.reply(round, &[512, 30, 700], false, false, false);
                bench.reply(round, &[100], true, true, round % 2 == 0);
                bench.fetch(1, round, 0, &[10]);
                bench.target.ask();
                bench.reply(round, &[], true, true, false);
            }
        };
        for (hpda, dgst) in [(0, 0), (31, 3)] {
            let mut whole = Bench::open(hpda, dgst, 0);
            script(&mut whole);
            whole.send();
            for step in (1..200).chain([1000, 4095, 5000]) {
                let mut bench = Bench::open(hpda, dgst, 0);
                script(&mut bench);
                bench.send_by(step);
                assert!(bench.got == whole.got, "{step} at a time");
                assert_eq!(bench.pool.out(), 6, "the fetches are still out");
            }
        }
    }
}

mod mutation {
    use super::*;

    /// A plausible stream of a host that was given `ttags` for CIDs 100 and up, of 5000 bytes each.
    fn stream(random: &mut fastrand::Rng, ttags: &[u16], format: &Format) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut offsets = vec![0usize; ttags.len()];
        for _ in 0..random.usize(1..20) {
            if random.bool() || ttags.is_empty() {
                let len = if random.bool() {
                    0
                } else {
                    random.usize(1..9000)
                };
                bytes.extend(capsule(random.u16(..), &pattern(len), format));
            } else {
                let at = random.usize(..ttags.len());
                let len = random.usize(1..3000).min(5000 - offsets[at]);
                if len > 0 {
                    let last = offsets[at] + len == 5000;
                    let (cid, offset) = (100 + at as u16, offsets[at] as u32);
                    bytes.extend(h2c(cid, ttags[at], offset, &pattern(len), last, format));
                    offsets[at] += len;
                }
            }
        }
        bytes
    }

    fn mutate(random: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
        for _ in 0..random.usize(0..4) {
            let at = random.usize(..bytes.len());
            match random.u8(0..6) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] ^= 1 << random.u8(..8),
                2 => bytes.truncate(at.max(1)),
                3 => {
                    bytes.remove(at);
                    bytes.push(0);
                }
                4 => bytes.insert(at, random.u8(..)),
                _ => {
                    let end = (at + random.usize(1..200)).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
        }
    }

    #[test]
    fn of_valid_streams_never_panics_nor_loses_a_buf_nor_piles_up() {
        let seeds = std::env::var("FERROCE_SEEDS")
            .ok()
            .and_then(|text| text.parse().ok());
        for seed in 0..seeds.unwrap_or(400u64) {
            let mut random = fastrand::Rng::with_seed(seed);
            let dgst = random.u8(0..4);
            let mut bench = Bench::open(random.u8(0..32), dgst, random.u32(0..3));
            let format = format(dgst);
            let mut ttags = Vec::new();
            for at in 0..random.u16(0..4) {
                bench.fetch(u32::from(at), 100 + at, 0, &[4096, 904]);
                bench.send();
                let r2t: R2t = bench.next();
                bench.got.clear();
                ttags.push(r2t.ttag.get());
            }
            let mut bytes = stream(&mut random, &ttags, &format);
            if bytes.is_empty() {
                continue;
            }
            mutate(&mut random, &mut bytes);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let count = random.usize(1..=rest.len().min(5000));
                let seen = if random.bool() {
                    bench.receive(&rest[..count])
                } else {
                    bench.receive_placed(&rest[..count])
                };
                rest = &rest[count..];
                assert!(bench.carry.len() <= IN_CAPSULE_MAX + 260, "seed {seed}");
                if seen.last() == Some(&Seen::Over) || seen.last() == Some(&Seen::HungUp) {
                    break;
                }
                if random.u8(..10) == 0 {
                    bench.reply(1, &[random.usize(1..4096)], true, true, random.bool());
                    bench.send_by(random.usize(1..5000));
                }
            }
            let pool = &mut bench.pool;
            bench.target.give_up(&mut |bufs| pool.put_all(bufs));
            assert_eq!(bench.pool.out(), 0, "seed {seed}");
        }
    }

    #[test]
    fn noise_is_refused_at_once() {
        for seed in 0..2000u64 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bytes = vec![0; random.usize(8..2000)];
            random.fill(&mut bytes);
            bytes[0] |= 0x10;
            let (fes, _) = Bench::new().refusal_of(&bytes);
            assert_eq!(fes, Fes::INVALID_PDU_HEADER_FIELD);
        }
    }

    impl Bench {
        fn refusal_of(&mut self, bytes: &[u8]) -> (Fes, u32) {
            assert_eq!(self.receive(bytes), [Seen::Over]);
            self.send();
            let term: TermReq = self.next();
            (term.fes(), term.fei.get())
        }
    }
}
