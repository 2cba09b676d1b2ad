//! Commands with bits flipped, in proper PDUs, on queues of a whole node: whatever they have become,
//! each is answered once or the connection ends, and the node goes on.
//!
//! `FERROCE_SEEDS=100000 cargo test -p ferroce-transport --test mutations` runs as long as asked;
//! `FERROCE_SEED=N` runs one.

mod node;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::ops::Range;

use ferroce_engine::host as nvme;
use ferroce_transport::tcp::frame::{self, Format};
use ferroce_wire::Wire;
use ferroce_wire::feature::{FeatureId, FeatureSelect};
use ferroce_wire::identify::{Cns, Csi};
use ferroce_wire::log::LogId;
use ferroce_wire::num::U32;
use ferroce_wire::opcode::AdminOpcode;
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, H2cData, LAST_PDU, PduType, R2t,
};
use node::Node;
use node::raw::Raw;

fn seeds() -> Range<u64> {
    let of = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match of("FERROCE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..of("FERROCE_SEEDS").unwrap_or(300),
    }
}

/// What a host might send, before bits are flipped.
fn commands(admin: bool) -> Vec<(Sqe, usize)> {
    let bytes = |sqe: Sqe, len: u32| (sqe.with_sgl(Sgl::transport(len)), 0);
    let inside = |sqe: Sqe, len: u32| (sqe.with_sgl(Sgl::in_capsule(0, len)), len as usize);
    if admin {
        return vec![
            bytes(Sqe::identify(Cns::CONTROLLER, 0, Csi::NVM), 4096),
            bytes(Sqe::identify(Cns::NAMESPACE, 1, Csi::NVM), 4096),
            bytes(
                Sqe::get_log_page(LogId::ERROR_INFORMATION, u32::MAX, 0, 4096),
                4096,
            ),
            (
                Sqe::get_features(FeatureId::NUMBER_OF_QUEUES, 0, FeatureSelect::CURRENT),
                0,
            ),
            inside(Sqe::set_features(FeatureId::TIMESTAMP, 0, 0), 8),
            (Sqe::abort(1, 1), 0),
            (nvme::keep_alive(), 0),
            (nvme::async_event_request(), 0),
            (
                nvme::property_get(ferroce_wire::prop::PropertyOffset::CSTS),
                0,
            ),
            (
                nvme::property_set(ferroce_wire::prop::PropertyOffset::CC, 0x0046_0001),
                0,
            ),
        ];
    }
    vec![
        bytes(nvme::read(1, 3, 1), 4096),
        bytes(nvme::read(2, 5, 300), 300 * 512),
        inside(nvme::write(1, 3, 2, false), 8192),
        bytes(nvme::write(2, 1, 200, true), 200 * 512),
        inside(nvme::compare(1, 0, 1), 4096),
        bytes(nvme::compare(2, 0, 64), 64 * 512),
        (nvme::write_zeroes(1, 8, 4, true), 0),
        (nvme::verify(2, 0, 100), 0),
        (nvme::flush(1), 0),
        inside(Sqe::dsm(1, 2, 1 << 2), 32),
        (nvme::disconnect(), 0),
    ]
}

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

/// Sends mutated commands one by one; all answers must come, or the end.
fn attack(raw: &mut Raw, random: &mut Random, admin: bool) {
    let commands = commands(admin);
    let mut owed = BTreeSet::new();
    let mut held = 0;
    for cid in 100..100 + 20 {
        let (sqe, len) = commands[random.below(commands.len())];
        let mut bytes: [u8; 64] = bytemuck::cast(sqe);
        for _ in 0..random.below(4) {
            bytes[random.below(64)] ^= 1 << random.below(8);
        }
        let mut sqe: Sqe = bytemuck::cast(bytes);
        sqe.cid = cid.into();
        // Requests for events are answered when there is one.
        if admin && sqe.opc == AdminOpcode::ASYNC_EVENT_REQUEST.0 {
            held += 1;
        }
        owed.insert(cid);
        let mut pdu = Vec::new();
        let data: Vec<u8> = (0..len).map(|at| (at % 13) as u8).collect();
        let capsule = CapsuleCmd {
            sqe,
            ..CapsuleCmd::default()
        };
        frame::put(&mut pdu, capsule, data.len(), &Format::default());
        pdu.extend_from_slice(&data);
        if raw.socket.write_all(&pdu).is_err() {
            return;
        }
        while owed.len() > held {
            match next(raw) {
                Some(Seen::Answer(cid)) => {
                    assert!(
                        owed.remove(&cid),
                        "{cid} was answered twice, or never asked"
                    );
                    // An event request beyond the limit, or one that an event was waiting for.
                    held = held.min(owed.len());
                }
                Some(Seen::Else) => {}
                None => return,
            }
        }
    }
}

enum Seen {
    Answer(u16),
    Else,
}

/// The next PDU, with R2Ts served; `None` at the end of the connection.
fn next(raw: &mut Raw) -> Option<Seen> {
    let mut head = [0; 24];
    if let Err(cause) = raw.socket.read_exact(&mut head) {
        assert_ne!(
            cause.kind(),
            std::io::ErrorKind::WouldBlock,
            "no answer came"
        );
        return None;
    }
    match CommonHeader::read(&head).expect("24 bytes").type_ {
        PduType::CAPSULE_RESP => {
            let cqe = CapsuleResp::read(&head).expect("24 bytes").cqe;
            Some(Seen::Answer(cqe.cid.get()))
        }
        PduType::C2H_DATA => {
            let pdu = C2hData::read(&head).expect("24 bytes");
            let mut data = vec![0; pdu.datal.get() as usize];
            raw.socket.read_exact(&mut data).ok()?;
            // SUCCESS is only for queues without SQ flow control, and ours have it.
            assert!(!pdu.ch.is_success());
            Some(Seen::Else)
        }
        PduType::R2T => {
            let r2t = R2t::read(&head).expect("24 bytes");
            let len = r2t.r2tl.get();
            let mut pdu = H2cData {
                cccid: r2t.cccid,
                ttag: r2t.ttag,
                datao: r2t.r2to,
                datal: U32::new(len),
                ..H2cData::default()
            };
            pdu.ch.flags = LAST_PDU;
            let mut bytes = Vec::new();
            frame::put(&mut bytes, pdu, len as usize, &Format::default());
            bytes.resize(bytes.len() + len as usize, 7);
            raw.socket.write_all(&bytes).ok()?;
            Some(Seen::Else)
        }
        other => panic!("the PDUs were proper, and the node answers {other}"),
    }
}

#[test]
fn mutated_commands() {
    let node = Node::start(&[4096, 512]);
    for seed in seeds() {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let (mut admin, cntlid) = Raw::admin(node.address);
        let mut io = Raw::io(node.address, cntlid, 1);
        let on_admin = random.below(3) == 0;
        let shown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            attack(
                if on_admin { &mut admin } else { &mut io },
                &mut random,
                on_admin,
            );
        }));
        if let Err(cause) = shown {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(cause);
        }
    }
}
