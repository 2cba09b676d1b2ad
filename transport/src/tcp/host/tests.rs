//! Grouped by state; the target is scripted as PDUs.

use super::*;
use ferroce_engine::host as nvme;
use ferroce_wire::tcp::{CommonHeader, DDGSTF, HDGSTF};

const DEPTH: u16 = 4;

fn wishes(dgst: u8) -> Wishes {
    Wishes {
        digests: Digests::from_dgst(dgst),
        hpda: 0,
        maxr2t: 1,
        depth: DEPTH,
    }
}

/// Takes what waits to be sent, in pieces of `step`.
fn take(conn: &mut Conn, step: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let mut piece = Vec::new();
        conn.gather(|bytes| {
            piece.extend_from_slice(bytes);
            piece.len() < step
        });
        piece.truncate(step);
        if piece.is_empty() {
            assert!(!conn.wants_send());
            return all;
        }
        conn.sent(piece.len());
        all.extend_from_slice(&piece);
    }
}

fn pdu<P: frame::Pdu>(pdu: P, data: &[u8], dgst: u8) -> Vec<u8> {
    let format = Format::new(Digests::from_dgst(dgst), 0).unwrap();
    let mut bytes = Vec::new();
    frame::put(&mut bytes, pdu, data.len(), &format);
    bytes.extend_from_slice(data);
    if format.digests.data && !data.is_empty() {
        bytes.extend_from_slice(&Crc::of(data).to_le_bytes());
    }
    bytes
}

fn icresp(maxh2cdata: u32, dgst: u8) -> Vec<u8> {
    pdu(IcResp::new(0, dgst, maxh2cdata), &[], 0)
}

/// A connection past its handshake.
fn open(dgst: u8) -> Conn {
    let mut conn = Conn::new(wishes(dgst));
    assert_eq!(take(&mut conn, usize::MAX).len(), 128);
    conn.received(&icresp(4096, dgst)).unwrap();
    assert!(conn.is_open());
    conn
}

fn response(cid: u16, status: Status) -> Vec<u8> {
    let cqe = Cqe::new(cid, status);
    pdu(
        CapsuleResp {
            cqe,
            ..CapsuleResp::default()
        },
        &[],
        0,
    )
}

fn c2h(cid: u16, datao: u32, data: &[u8], flags: u8) -> Vec<u8> {
    c2h_with(cid, datao, data, flags, 0)
}

fn c2h_with(cid: u16, datao: u32, data: &[u8], flags: u8, dgst: u8) -> Vec<u8> {
    let mut head = C2hData {
        cccid: U16::new(cid),
        datao: U32::new(datao),
        datal: U32::new(data.len() as u32),
        ..C2hData::default()
    };
    head.ch.flags = flags;
    pdu(head, data, dgst)
}

fn r2t(cid: u16, ttag: u16, r2to: u32, r2tl: u32) -> Vec<u8> {
    let head = R2t {
        cccid: U16::new(cid),
        ttag: U16::new(ttag),
        r2to: U32::new(r2to),
        r2tl: U32::new(r2tl),
        ..R2t::default()
    };
    pdu(head, &[], 0)
}

fn read(conn: &mut Conn, len: usize) -> u16 {
    let blocks = len as u32 / 512;
    let sqe = nvme::read(1, 0, blocks);
    let cid = conn.submit(sqe, Data::zeroed(len), 7).unwrap();
    take(conn, usize::MAX);
    cid
}

fn write(conn: &mut Conn, len: usize) -> (u16, Vec<u8>) {
    let data: Vec<u8> = (0..len).map(|i| (i / 512 + i) as u8).collect();
    let sqe = nvme::write(1, 0, len as u32 / 512, false);
    let cid = conn.submit(sqe, data.clone().into(), 8).unwrap();
    (cid, data)
}

/// What the machine says to `bytes`, which must be the same however they are cut in two.
#[track_caller]
fn violates(make: impl Fn() -> Conn, bytes: &[u8]) -> Violation {
    let mut first = None;
    for cut in 0..bytes.len() {
        let mut conn = make();
        let result = conn
            .received(&bytes[..cut])
            .and_then(|()| conn.received(&bytes[cut..]));
        let Err(Broken::Violation(violation)) = result else {
            panic!("cut at {cut}: {result:?}")
        };
        let same = first.get_or_insert_with(|| violation.clone());
        assert_eq!((violation.fatal, violation.what), (same.fatal, same.what));
        conn.terminate(&violation);
        let term = take(&mut conn, usize::MAX);
        let at = term.len() - TermReq::LEN - violation.header.len();
        let term: TermReq = TermReq::read(&term[at..]).unwrap();
        assert_eq!(term.ch.type_, PduType::H2C_TERM_REQ);
        assert_eq!(
            (term.fes(), term.fei.get()),
            (violation.fatal.fes, violation.fatal.fei)
        );
        // Whatever was outstanding is completed exactly once.
        let outstanding = conn.outstanding();
        conn.end();
        assert_eq!(std::iter::from_fn(|| conn.poll()).count(), outstanding);
    }
    first.unwrap()
}

mod greeting {
    use super::*;

    #[test]
    fn icreq_is_what_linux_sends() {
        let mut conn = Conn::new(Wishes {
            maxr2t: 1,
            ..wishes(3)
        });
        let sent = take(&mut conn, 1);
        let mut literal = [0; 128];
        literal[..12].copy_from_slice(&[0x00, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(sent, literal);
    }

    #[test]
    fn icresp_opens_in_any_pieces() {
        for step in 1..=128 {
            let mut conn = Conn::new(wishes(3));
            for piece in icresp(0x20000, 1).chunks(step) {
                assert!(!conn.is_open());
                conn.received(piece).unwrap();
            }
            assert!(conn.is_open());
            assert_eq!(
                conn.digests(),
                Digests {
                    header: true,
                    data: false
                }
            );
        }
    }

    #[test]
    fn an_icresp_that_cannot_be_is_refused() {
        let make = || Conn::new(wishes(1));
        let with = |at: usize, value: u8| {
            let mut bytes = icresp(4096, 0);
            bytes[at] = value;
            bytes
        };
        assert_eq!(violates(make, &with(8, 1)).fatal, Fatal::parameter(8));
        assert_eq!(violates(make, &with(10, 32)).fatal, Fatal::field(10));
        assert_eq!(violates(make, &with(11, 2)).fatal, Fatal::parameter(11));
        assert_eq!(violates(make, &with(12, 1)).fatal, Fatal::field(12));
        assert_eq!(violates(make, &icresp(4092, 0)).fatal, Fatal::field(12));
        assert_eq!(violates(make, &with(4, 127)).fatal, Fatal::field(4));
        assert_eq!(violates(make, &with(2, 24)).fatal, Fatal::field(2));
    }

    #[test]
    fn nothing_else_may_come() {
        let make = || Conn::new(wishes(0));
        for bytes in [
            response(0, Status::SUCCESS),
            c2h(0, 0, &[1; 4], LAST_PDU),
            r2t(0, 0, 0, 4),
        ] {
            let fes = violates(make, &bytes).fatal.fes;
            assert_eq!(fes, Fes::PDU_SEQUENCE_ERROR);
        }
        let http = violates(make, b"HTTP/1.1 400 Bad Request\r\n");
        assert_eq!((http.fatal, http.header[0]), (Fatal::field(0), b'H'));
    }

    #[test]
    fn a_term_req_is_told() {
        let mut bytes = Vec::new();
        frame::put_term(
            &mut bytes,
            PduType::C2H_TERM_REQ,
            Fatal::parameter(8),
            &[0; 128],
        );
        let mut conn = Conn::new(wishes(0));
        let (fes, fei) = (Fes::UNSUPPORTED_PARAMETER, 8);
        assert_eq!(conn.received(&bytes), Err(Broken::Terminated { fes, fei }));
    }
}

mod sending {
    use super::*;

    #[test]
    fn a_read_is_72_bytes_of_capsule() {
        let mut conn = open(0);
        let sqe = nvme::read(1, 0x55, 8);
        let cid = conn.submit(sqe, Data::zeroed(4096), 0).unwrap();
        let sent = take(&mut conn, 10);
        let mut literal = vec![0x04, 0, 72, 0, 72, 0, 0, 0];
        literal.extend_from_slice(&[0x02, 0x40, cid as u8, (cid >> 8) as u8, 1, 0, 0, 0]);
        literal.extend_from_slice(&[0; 16]);
        literal.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0x5A]);
        literal.extend_from_slice(&[0x55, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0]);
        literal.extend_from_slice(&[0; 12]);
        assert_eq!(sent, literal);
    }

    #[test]
    fn small_writes_go_in_the_capsule_and_large_ones_wait_for_r2t() {
        for (len, limit, inside) in [
            (4096, 8192, true),
            (8192, 8192, true),
            (8704, 8192, false),
            (512, 0, false),
        ] {
            let mut conn = open(0);
            conn.set_in_capsule(limit);
            let (_, data) = write(&mut conn, len);
            let sent = take(&mut conn, 1000);
            let capsule = CapsuleCmd::read(&sent).unwrap();
            assert_eq!(capsule.sqe.dptr.len.get() as usize, len);
            if inside {
                assert_eq!(sent[72..], data);
                assert_eq!(capsule.sqe.dptr.kind, Sgl::IN_CAPSULE);
                assert_eq!(
                    (capsule.ch.pdo, capsule.ch.plen.get() as usize),
                    (72, 72 + len)
                );
            } else {
                assert_eq!(sent.len(), 72);
                assert_eq!(capsule.sqe.dptr.kind, Sgl::TRANSPORT);
            }
        }
    }

    #[test]
    fn connect_goes_in_the_capsule_of_every_queue() {
        let mut conn = open(0);
        conn.set_in_capsule(0);
        let data = Data::Vec(vec![9; 1024]);
        conn.submit(nvme::connect(1, 5, 4, 0), data, 0).unwrap();
        assert_eq!(take(&mut conn, usize::MAX).len(), 72 + 1024);
    }

    #[test]
    fn an_r2t_is_answered_in_pieces_of_maxh2cdata() {
        for dgst in 0..4 {
            let mut conn = open(dgst);
            conn.set_in_capsule(0);
            let (cid, data) = write(&mut conn, 10240);
            take(&mut conn, usize::MAX);
            for (r2to, r2tl) in [(0u32, 9216u32), (9216, 1024)] {
                let ask = R2t {
                    cccid: U16::new(cid),
                    ttag: U16::new(0xBEEF),
                    r2to: U32::new(r2to),
                    r2tl: U32::new(r2tl),
                    ..R2t::default()
                };
                conn.received(&pdu(ask, &[], dgst)).unwrap();
                let sent = take(&mut conn, 777);
                let mut want = Vec::new();
                let mut at = r2to;
                while at < r2to + r2tl {
                    let len = (r2to + r2tl - at).min(4096);
                    let mut head = H2cData {
                        cccid: U16::new(cid),
                        ttag: U16::new(0xBEEF),
                        datao: U32::new(at),
                        datal: U32::new(len),
                        ..H2cData::default()
                    };
                    if at + len == r2to + r2tl {
                        head.ch.flags = LAST_PDU;
                    }
                    let data = &data[at as usize..(at + len) as usize];
                    want.extend_from_slice(&pdu(head, data, dgst));
                    at += len;
                }
                assert_eq!(sent, want);
            }
            let cqe = Cqe::new(cid, Status::SUCCESS);
            let done = CapsuleResp {
                cqe,
                ..CapsuleResp::default()
            };
            conn.received(&pdu(done, &[], dgst)).unwrap();
            let completion = conn.poll().unwrap();
            assert!(completion.is_success() && completion.user_data == 8);
            assert_eq!(completion.data.bytes(), data);
        }
    }

    #[test]
    fn data_is_aligned_as_the_controller_asks() {
        let mut conn = Conn::new(wishes(0));
        take(&mut conn, usize::MAX);
        conn.received(&pdu(IcResp::new(31, 0, 4096), &[], 0))
            .unwrap();
        let (_, data) = write(&mut conn, 512);
        let sent = take(&mut conn, 100);
        assert_eq!(sent[3], 128);
        assert_eq!(sent[128..], data);
        assert!(sent[72..128].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_full_queue_gives_the_data_back() {
        let mut conn = open(0);
        for _ in 0..DEPTH {
            read(&mut conn, 512);
        }
        let refused = conn
            .submit(nvme::read(1, 0, 1), Data::zeroed(512), 0)
            .unwrap_err();
        assert_eq!((refused.why, refused.data.len()), (RefusedWhy::Full, 512));
        conn.end();
        let refused = conn
            .submit(nvme::read(1, 0, 1), Data::Discard(512), 0)
            .unwrap_err();
        assert_eq!(refused.why, RefusedWhy::Dead);
        // An answer that nobody polled takes its place in the queue, too.
        let mut conn = open(0);
        let cids: Vec<u16> = (0..DEPTH)
            .map(|_| conn.submit(nvme::flush(1), Data::None, 0).unwrap())
            .collect();
        conn.received(&response(cids[0], Status::SUCCESS)).unwrap();
        assert!(conn.submit(nvme::flush(1), Data::None, 0).is_err());
        conn.poll().unwrap().cqe.cid.get();
        assert!(conn.submit(nvme::flush(1), Data::None, 0).is_ok());
    }
}

mod receiving {
    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
    }

    #[test]
    fn a_read_in_one_pdu_or_several_in_pieces_of_every_length() {
        let data = pattern(1024);
        for dgst in 0..4u8 {
            let probe = open(dgst);
            let cid = probe.commands.next_cid().unwrap();
            let mut stream = c2h_with(cid, 0, &data[..512], 0, dgst);
            stream.extend(c2h_with(cid, 512, &data[512..], LAST_PDU, dgst));
            let cqe = Cqe::new(cid, Status::SUCCESS);
            stream.extend(pdu(
                CapsuleResp {
                    cqe,
                    ..CapsuleResp::default()
                },
                &[],
                dgst,
            ));
            for step in 1..=stream.len() {
                let mut conn = open(dgst);
                read(&mut conn, 1024);
                for piece in stream.chunks(step) {
                    assert!(conn.poll().is_none());
                    conn.received(piece).unwrap();
                }
                let completion = conn.poll().unwrap();
                assert!(completion.is_success());
                assert_eq!(completion.data.bytes(), data);
                assert!(conn.poll().is_none() && conn.outstanding() == 0);
            }
        }
    }

    #[test]
    fn padding_before_data_is_skipped() {
        let mut conn = open(0);
        let cid = read(&mut conn, 512);
        let data = pattern(512);
        let mut stream = c2h(cid, 0, &data, LAST_PDU);
        stream[3] = 64;
        stream[4..8].copy_from_slice(&(64u32 + 512).to_le_bytes());
        stream.splice(24..24, [0xEE; 40]);
        for byte in stream {
            conn.received(&[byte]).unwrap();
        }
        conn.received(&response(cid, Status::SUCCESS)).unwrap();
        assert_eq!(conn.poll().unwrap().data.bytes(), data);
    }

    #[test]
    fn success_elides_the_response_where_flow_control_is_off() {
        let bytes = |cid| c2h(cid, 0, &[5; 512], LAST_PDU | SUCCESS);
        let mut conn = open(0);
        conn.set_sq_flow_control(false);
        let cid = read(&mut conn, 512);
        conn.received(&bytes(cid)).unwrap();
        let completion = conn.poll().unwrap();
        assert!(completion.is_success() && completion.data.bytes() == [5; 512]);
        let make = || {
            let mut conn = open(0);
            read(&mut conn, 512);
            conn
        };
        let cid = open(0).commands.next_cid().unwrap();
        assert_eq!(violates(make, &bytes(cid)).fatal, Fatal::field(1));
    }

    #[test]
    fn discarded_data_is_counted_and_checked() {
        let mut conn = open(2);
        conn.set_sq_flow_control(false);
        for spoil in [false, true] {
            let sqe = nvme::read(1, 0, 1);
            let cid = conn.submit(sqe, Data::Discard(512), 0).unwrap();
            let mut bytes = c2h_with(cid, 0, &[3; 512], LAST_PDU | SUCCESS, 2);
            if spoil {
                bytes[100] ^= 1;
            }
            conn.received(&bytes).unwrap();
            let status = conn.poll().unwrap().status();
            let want = if spoil {
                Status::TRANSIENT_TRANSPORT_ERROR
            } else {
                Status::SUCCESS
            };
            assert_eq!(status, want);
        }
    }

    #[test]
    fn a_wrong_data_digest_fails_its_command_only() {
        let mut conn = open(3);
        let good = read(&mut conn, 512);
        let bad = read(&mut conn, 512);
        let mut bytes = c2h_with(bad, 0, &[1; 512], LAST_PDU, 3);
        *bytes.last_mut().unwrap() ^= 0x80;
        bytes.extend(c2h_with(good, 0, &[1; 512], LAST_PDU, 3));
        for (cid, status) in [(bad, Status::SUCCESS), (good, Status::SUCCESS)] {
            let cqe = Cqe::new(cid, status);
            bytes.extend(pdu(
                CapsuleResp {
                    cqe,
                    ..CapsuleResp::default()
                },
                &[],
                3,
            ));
        }
        conn.received(&bytes).unwrap();
        assert_eq!(
            conn.poll().unwrap().status(),
            Status::TRANSIENT_TRANSPORT_ERROR
        );
        assert!(conn.poll().unwrap().is_success());
    }

    #[test]
    fn a_wrong_header_digest_ends_the_connection() {
        let make = || {
            let mut conn = open(1);
            read(&mut conn, 512);
            conn
        };
        let cid = open(0).commands.next_cid().unwrap();
        let cqe = Cqe::new(cid, Status::INTERNAL_ERROR);
        let mut bytes = pdu(
            CapsuleResp {
                cqe,
                ..CapsuleResp::default()
            },
            &[],
            1,
        );
        bytes[9] ^= 1;
        let fatal = violates(make, &bytes).fatal;
        assert_eq!(fatal.fes, Fes::HEADER_DIGEST_ERROR);
        assert_eq!(fatal.fei, frame::digest_at(&bytes, 24));
    }

    #[test]
    fn the_rest_of_a_large_pdu_can_be_placed_by_the_shell() {
        for dgst in [0, 2] {
            let data = pattern(65536);
            let mut conn = open(dgst);
            conn.set_sq_flow_control(false);
            let cid = read(&mut conn, 65536);
            let bytes = c2h_with(cid, 0, &data, LAST_PDU | SUCCESS, dgst);
            assert!(conn.direct().is_none());
            conn.received(&bytes[..1000]).unwrap();
            assert!(conn.has_large_pdus());
            let mut at = 1000;
            while let Some(place) = conn.direct() {
                let count = place.len().min(9000);
                place[..count].copy_from_slice(&bytes[at..at + count]);
                conn.direct_received(count);
                at += count;
            }
            conn.received(&bytes[at..]).unwrap();
            let completion = conn.poll().unwrap();
            assert!(completion.is_success());
            assert!(completion.data.bytes() == data);
        }
    }

    #[test]
    fn an_error_may_overtake_data_that_is_still_to_be_sent() {
        let mut conn = open(0);
        let (cid, data) = write(&mut conn, 4096);
        conn.sent(100);
        conn.received(&response(cid, Status::LBA_OUT_OF_RANGE))
            .unwrap();
        assert!(conn.poll().is_none(), "its memory is still needed");
        let rest = take(&mut conn, 1000);
        assert_eq!(rest.len(), 72 + 4096 - 100);
        let completion = conn.poll().unwrap();
        assert_eq!(completion.status(), Status::LBA_OUT_OF_RANGE);
        assert_eq!(completion.data.bytes(), data);
    }

    #[test]
    fn an_error_may_follow_some_of_the_data() {
        let mut conn = open(0);
        let cid = read(&mut conn, 1024);
        conn.received(&c2h(cid, 0, &[1; 512], 0)).unwrap();
        conn.received(&response(cid, Status::UNRECOVERED_READ_ERROR))
            .unwrap();
        assert_eq!(
            conn.poll().unwrap().status(),
            Status::UNRECOVERED_READ_ERROR
        );
    }
}

mod lies {
    use super::*;

    /// A read of 1024 bytes is outstanding, and then a write of 10240 of which nothing was sent but
    /// the command.
    fn busy() -> Conn {
        let mut conn = open(0);
        conn.set_sq_flow_control(false);
        read(&mut conn, 1024);
        write(&mut conn, 10240);
        take(&mut conn, usize::MAX);
        conn
    }

    fn cids() -> (u16, u16) {
        let conn = busy();
        let cids: Vec<u16> = conn.commands.cids().collect();
        (cids[0], cids[1])
    }

    #[test]
    fn commands_that_are_not_there() {
        let (reading, _) = cids();
        for cid in [2, 3, 4, 0x7FFF, 0xFFFF, reading + 4] {
            assert_eq!(
                violates(busy, &response(cid, Status::SUCCESS)).fatal,
                Fatal::field(20)
            );
            assert_eq!(
                violates(busy, &c2h(cid, 0, &[0; 8], 0)).fatal,
                Fatal::field(8)
            );
            assert_eq!(violates(busy, &r2t(cid, 0, 0, 8)).fatal, Fatal::field(8));
        }
    }

    #[test]
    fn a_second_answer() {
        let (reading, _) = cids();
        let answer = response(reading, Status::INTERNAL_ERROR);
        let unpolled = || {
            let mut conn = busy();
            conn.received(&answer).unwrap();
            conn
        };
        let polled = || {
            let mut conn = unpolled();
            conn.poll().unwrap().is_success();
            conn
        };
        assert_eq!(
            violates(unpolled, &answer).what,
            "the command was answered before"
        );
        assert_eq!(violates(polled, &answer).what, "there is no such command");
        assert_eq!(
            violates(unpolled, &c2h(reading, 0, &[0; 8], 0)).fatal,
            Fatal::field(8)
        );
    }

    #[test]
    fn data_that_does_not_belong_there() {
        let (reading, writing) = cids();
        let data = [0xEE; 1028];
        assert_eq!(
            violates(busy, &c2h(writing, 0, &data[..512], 0)).fatal,
            Fatal::field(8)
        );
        let range = Fes::DATA_TRANSFER_OUT_OF_RANGE;
        for (datao, len) in [(4, 512), (0, 1028), (1024, 4), (0xFFFF_FFFC, 8)] {
            assert_eq!(
                violates(busy, &c2h(reading, datao, &data[..len], 0))
                    .fatal
                    .fes,
                range
            );
        }
        let after = || {
            let mut conn = busy();
            conn.received(&c2h(reading, 0, &data[..512], 0)).unwrap();
            conn
        };
        for (datao, len) in [(0, 512), (508, 512), (516, 508), (512, 516)] {
            assert_eq!(
                violates(after, &c2h(reading, datao, &data[..len], 0))
                    .fatal
                    .fes,
                range
            );
        }
        let mut bytes = c2h(reading, 0, &data[..512], 0);
        bytes[16] = 4;
        assert_eq!(violates(busy, &bytes).fatal, Fatal::field(16));
        assert_eq!(
            violates(busy, &c2h(reading, 0, &[], LAST_PDU)).fatal,
            Fatal::field(16)
        );
    }

    #[test]
    fn success_that_is_none() {
        let (reading, writing) = cids();
        let sequence = Fatal::of(Fes::PDU_SEQUENCE_ERROR);
        assert_eq!(
            violates(busy, &response(reading, Status::SUCCESS)).fatal,
            sequence
        );
        assert_eq!(
            violates(busy, &response(writing, Status::SUCCESS)).fatal,
            sequence
        );
        let half = c2h(reading, 0, &[0; 512], LAST_PDU | SUCCESS);
        assert_eq!(violates(busy, &half).fatal, sequence);
        let odd = c2h(reading, 0, &[0; 1024], SUCCESS);
        assert_eq!(violates(busy, &odd).fatal, Fatal::field(1));
    }

    #[test]
    fn r2ts_that_cannot_be() {
        let (reading, writing) = cids();
        assert_eq!(
            violates(busy, &r2t(reading, 0, 0, 512)).fatal,
            Fatal::field(8)
        );
        assert_eq!(
            violates(busy, &r2t(writing, 0, 0, 0)).fatal,
            Fatal::field(16)
        );
        let range = Fes::DATA_TRANSFER_OUT_OF_RANGE;
        for (r2to, r2tl) in [(4, 4), (0, 10241), (0, u32::MAX), (u32::MAX, 2)] {
            assert_eq!(
                violates(busy, &r2t(writing, 0, r2to, r2tl)).fatal.fes,
                range
            );
        }
        let asked = || {
            let mut conn = busy();
            conn.received(&r2t(writing, 0, 0, 4096)).unwrap();
            conn
        };
        let second = r2t(writing, 1, 4096, 4096);
        // One at a time was agreed on; the first is not answered yet.
        let limit = Fatal::of(Fes::R2T_LIMIT_EXCEEDED);
        assert_eq!(violates(asked, &second).fatal, limit);
        let mut conn = asked();
        take(&mut conn, usize::MAX);
        conn.received(&second).unwrap();
        // In-capsule data needs no R2T.
        let inside = || {
            let mut conn = open(0);
            write(&mut conn, 4096);
            conn
        };
        let cid = inside().commands.cids().next().unwrap();
        assert_eq!(violates(inside, &r2t(cid, 0, 0, 4096)).fatal.fes, range);
        let flushing = || {
            let mut conn = open(0);
            conn.submit(nvme::flush(1), Data::None, 0).unwrap();
            conn
        };
        assert_eq!(
            violates(flushing, &r2t(cid, 0, 0, 4)).fatal,
            Fatal::field(8)
        );
    }

    #[test]
    fn pdus_of_no_use() {
        assert_eq!(
            violates(busy, &icresp(4096, 0)).fatal.fes,
            Fes::PDU_SEQUENCE_ERROR
        );
        let (reading, _) = cids();
        for flags in [HDGSTF, DDGSTF] {
            let mut bytes = c2h(reading, 0, &[0; 512], 0);
            bytes[1] = flags;
            assert_eq!(violates(busy, &bytes).fatal, Fatal::field(1));
        }
        for kind in [0x00, 0x02, 0x04, 0x06, 0x08, 0x0A, 0xFF] {
            let mut bytes = response(reading, Status::SUCCESS);
            bytes[0] = kind;
            assert_eq!(violates(busy, &bytes).fatal, Fatal::field(0));
        }
    }

    #[test]
    fn what_is_shown_names_the_pdu() {
        let text = Broken::Violation(violates(busy, &r2t(9, 0xABCD, 0, 8))).to_string();
        assert!(
            text.starts_with("there is no such command; received R2T (09h) 09001800"),
            "{text}"
        );
    }

    /// `FERROCE_SEEDS=100000` tries so many seeds, `FERROCE_SEED=N` one.
    fn seeds() -> std::ops::Range<u64> {
        let of = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        match of("FERROCE_SEED") {
            Some(seed) => seed..seed + 1,
            None => 0..of("FERROCE_SEEDS").unwrap_or(200),
        }
    }

    /// Whatever comes: no panic, and every command completed once.
    #[test]
    fn noise() {
        for seed in seeds() {
            let run = std::panic::catch_unwind(|| one(seed));
            assert!(run.is_ok(), "repeat with FERROCE_SEED={seed}");
        }
    }

    fn one(seed: u64) {
        fastrand::seed(seed);
        for round in 0..100 {
            let mut conn = busy();
            let mut completed = 0;
            let (reading, writing) = cids_of(&conn);
            let mut bytes = Vec::new();
            for _ in 0..fastrand::usize(1..6) {
                let cid = *fastrand::choice([reading, writing, fastrand::u16(..)].iter()).unwrap();
                let at = [0, 512, 4096, fastrand::u32(..)][fastrand::usize(..4)];
                let len = [512, 1024, 4096, 10240, fastrand::u32(..)][fastrand::usize(..5)];
                bytes.extend(match fastrand::u8(..5) {
                    0 => response(cid, Status(fastrand::u16(..) >> 1)),
                    1 => c2h(cid, at, &vec![1; (len % 2048) as usize], fastrand::u8(..16)),
                    2 => r2t(cid, fastrand::u16(..), at, len),
                    3 => (0..fastrand::usize(..64))
                        .map(|_| fastrand::u8(..))
                        .collect(),
                    _ => icresp(len, 0),
                });
            }
            if round % 2 == 0 {
                let at = fastrand::usize(..bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = fastrand::u8(..);
                }
            }
            for piece in bytes.chunks(fastrand::usize(1..200)) {
                if conn.received(piece).is_err() {
                    break;
                }
                let mut sent = 0;
                conn.gather(|piece| {
                    sent += piece.len();
                    fastrand::bool()
                });
                if sent > 0 {
                    conn.sent(fastrand::usize(..=sent));
                }
                completed += std::iter::from_fn(|| conn.poll()).count();
            }
            conn.end();
            completed += std::iter::from_fn(|| conn.poll()).count();
            assert_eq!(completed, 2);
        }
    }

    fn cids_of(conn: &Conn) -> (u16, u16) {
        let mut cids = conn.commands.cids();
        (cids.next().unwrap(), cids.next().unwrap())
    }
}

mod ending {
    use super::*;

    #[test]
    fn every_command_is_completed_once_and_has_its_memory_back() {
        let mut conn = open(0);
        conn.set_in_capsule(8192);
        let answered = read(&mut conn, 512);
        let halfway = read(&mut conn, 1024);
        write(&mut conn, 4096);
        conn.received(&response(answered, Status::INTERNAL_ERROR))
            .unwrap();
        conn.received(&c2h(halfway, 0, &[1; 1024], LAST_PDU)[..300])
            .unwrap();
        conn.sent(50);
        conn.end();
        conn.end();
        assert!(!conn.wants_send());
        let mut statuses = Vec::new();
        while let Some(completion) = conn.poll() {
            assert!(!completion.data.is_empty());
            statuses.push(completion.status());
        }
        let lost = Status::HOST_PATHING_ERROR;
        assert_eq!(statuses, [Status::INTERNAL_ERROR, lost, lost]);
        assert_eq!(conn.outstanding(), 0);
        assert!(conn.received(&response(0, Status::SUCCESS)).is_err());
    }
}

#[test]
fn a_header_is_never_longer_than_its_place() {
    for kind in 0..=255 {
        let hlen = PduType(kind).hlen().map_or(0, usize::from);
        assert!(hlen + DIGEST_LEN <= HEAD_MAX);
    }
    assert_eq!(CommonHeader::LEN, 8);
}

/// What is done with each PDU in each state, for a review to see when it changes.
#[test]
fn the_table_of_states() {
    let busy = || {
        let mut conn = open(0);
        read(&mut conn, 512);
        conn
    };
    let cid = busy().commands.cids().next().unwrap();
    let mut term = Vec::new();
    frame::put_term(&mut term, PduType::C2H_TERM_REQ, Fatal::field(3), &[]);
    let pdus = [
        ("ICResp", icresp(4096, 0)),
        ("C2HTermReq", term),
        ("CapsuleResp", response(cid, Status::INTERNAL_ERROR)),
        ("C2HData", c2h(cid, 0, &[1; 512], LAST_PDU)),
        ("R2T", r2t(cid, 0, 0, 4)),
    ];
    let ended = || {
        let mut conn = busy();
        conn.end();
        conn
    };
    let states: [(&str, &dyn Fn() -> Conn); 3] = [
        ("AwaitIcResp", &|| Conn::new(wishes(0))),
        ("Open", &busy),
        ("Ended", &ended),
    ];
    let mut table = String::new();
    for (state, make) in states {
        for (name, bytes) in &pdus {
            let did = match make().received(bytes) {
                Ok(()) => "taken".into(),
                Err(Broken::Terminated { .. }) => "the target's end".into(),
                Err(Broken::Violation(violation)) => violation.what.to_string(),
            };
            table.push_str(&format!("{state} {name}: {did}\n"));
        }
    }
    let snapshot = "\
AwaitIcResp ICResp: taken
AwaitIcResp C2HTermReq: the target's end
AwaitIcResp CapsuleResp: something else came before ICResp
AwaitIcResp C2HData: something else came before ICResp
AwaitIcResp R2T: something else came before ICResp
Open ICResp: a second ICResp came
Open C2HTermReq: the target's end
Open CapsuleResp: taken
Open C2HData: taken
Open R2T: R2T for a command that has nothing to send
Ended ICResp: something came after the end
Ended C2HTermReq: something came after the end
Ended CapsuleResp: something came after the end
Ended C2HData: something came after the end
Ended R2T: something came after the end
";
    assert_eq!(table, snapshot);
}
