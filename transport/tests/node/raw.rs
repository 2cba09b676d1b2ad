//! A host that says exactly what the test tells it to, PDU by PDU.
#![allow(dead_code, reason = "each test uses its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ferroce_transport::tcp::frame::{self, Format};
use ferroce_wire::Wire;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::fabrics::{ConnectCmd, ConnectData, Nqn, PropertyGet, PropertySet};
use ferroce_wire::prop::{Cc, PropertyOffset};
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, H2cData, IcReq, IcResp, LAST_PDU, PduType, R2t,
};

use super::NQN;
use super::common::Patience;

/// One connection.
pub struct Raw {
    pub socket: TcpStream,
    next_cid: u16,
}

/// An answer, and the data that came before it.
#[derive(Debug)]
pub struct Answer {
    pub cqe: Cqe,
    pub data: Vec<u8>,
}

pub fn nqn(name: &str) -> Nqn {
    Nqn::new(name).expect("it is one")
}

/// What an ordinary host says in Connect.
pub fn connect_data(cntlid: u16) -> ConnectData {
    connect_data_of(7, cntlid)
}

/// The same of one of several hosts.
pub fn connect_data_of(host: u8, cntlid: u16) -> ConnectData {
    let name = nqn(&format!("nqn.2026-01.test:raw{host}"));
    ConnectData::new([host; 16], cntlid, &nqn(NQN), &name)
}

/// Connect for a queue of 32 entries, its data in the capsule.
pub fn connect_command(qid: u16) -> ConnectCmd {
    ConnectCmd::new(qid, 31, 0, 0, Sgl::in_capsule(0, ConnectData::LEN as u32))
}

impl Raw {
    /// A socket on which nothing was said yet.
    pub fn silent(address: SocketAddr) -> Raw {
        let socket = TcpStream::connect(address).expect("the node listens");
        socket.set_nodelay(true).expect("TCP");
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("not zero");
        socket
            .set_write_timeout(Some(Duration::from_secs(20)))
            .expect("not zero");
        Raw {
            socket,
            next_cid: 1,
        }
    }

    /// A connection after ICReq and ICResp.
    pub fn greet(address: SocketAddr) -> Raw {
        let mut raw = Raw::silent(address);
        let mut bytes = Vec::new();
        frame::put(&mut bytes, IcReq::new(0, 0, 0), 0, &Format::default());
        raw.socket.write_all(&bytes).expect("the node reads");
        let mut response = [0; IcResp::LEN];
        raw.socket
            .read_exact(&mut response)
            .expect("the node answers");
        assert_eq!(response[0], PduType::IC_RESP.0);
        raw
    }

    /// An admin queue of an enabled controller, and its CNTLID.
    pub fn admin(address: SocketAddr) -> (Raw, u16) {
        Raw::admin_of(7, address)
    }

    /// The same of one of several hosts.
    pub fn admin_of(host: u8, address: SocketAddr) -> (Raw, u16) {
        let mut raw = Raw::greet(address);
        let answer = raw.connect(connect_command(0), connect_data_of(host, 0xFFFF));
        assert!(answer.cqe.status().is_success(), "{}", answer.cqe.status());
        let cntlid = answer.cqe.dw0.get() as u16;
        let cc = Cc::default().with_en(true).with_iosqes(6).with_iocqes(4);
        let answer = raw.ask(
            PropertySet::new(PropertyOffset::CC.0, 0, cc.0.into()).to_sqe(),
            &[],
        );
        assert!(answer.cqe.status().is_success(), "{}", answer.cqe.status());
        let get = PropertyGet::new(PropertyOffset::CSTS.0, 0).to_sqe();
        let patience = Patience::begin();
        while raw.ask(get, &[]).cqe.dw0.get() & 1 == 0 {
            patience.holds("CSTS.RDY");
        }
        (raw, cntlid)
    }

    /// An I/O queue of that controller.
    pub fn io(address: SocketAddr, cntlid: u16, qid: u16) -> Raw {
        Raw::io_of(7, address, cntlid, qid)
    }

    /// The same of one of several hosts.
    pub fn io_of(host: u8, address: SocketAddr, cntlid: u16, qid: u16) -> Raw {
        let mut raw = Raw::greet(address);
        let answer = raw.connect(connect_command(qid), connect_data_of(host, cntlid));
        assert!(answer.cqe.status().is_success(), "{}", answer.cqe.status());
        raw
    }

    pub fn connect(&mut self, command: ConnectCmd, data: ConnectData) -> Answer {
        self.ask(command.to_sqe(), data.as_bytes())
    }

    /// Sends a command with in-capsule data; its CID.
    pub fn send(&mut self, sqe: Sqe, data: &[u8]) -> u16 {
        let cid = self.next_cid;
        self.next_cid += 1;
        let sqe = Sqe {
            cid: cid.into(),
            ..sqe
        };
        let mut bytes = Vec::new();
        let pdu = CapsuleCmd {
            sqe,
            ..CapsuleCmd::default()
        };
        frame::put(&mut bytes, pdu, data.len(), &Format::default());
        bytes.extend_from_slice(data);
        self.socket.write_all(&bytes).expect("the node reads");
        cid
    }

    /// Sends a command and waits for its answer.
    pub fn ask(&mut self, sqe: Sqe, data: &[u8]) -> Answer {
        let cid = self.send(sqe, data);
        let answer = self.answer();
        assert_eq!(answer.cqe.cid.get(), cid);
        answer
    }

    /// The next answer, with what data came before it.
    pub fn answer(&mut self) -> Answer {
        let mut data = Vec::new();
        loop {
            let mut head = [0; 24];
            self.socket.read_exact(&mut head).expect("the node answers");
            let ch = CommonHeader::read(&head).expect("24 bytes");
            if ch.type_ == PduType::CAPSULE_RESP {
                let cqe = CapsuleResp::read(&head).expect("24 bytes").cqe;
                return Answer { cqe, data };
            }
            assert_eq!(ch.type_, PduType::C2H_DATA, "{head:?}");
            let len = C2hData::read(&head).expect("24 bytes").datal.get() as usize;
            let had = data.len();
            data.resize(had + len, 0);
            self.socket
                .read_exact(&mut data[had..])
                .expect("the node sends what it said");
        }
    }

    /// The R2T that comes next.
    pub fn r2t(&mut self) -> R2t {
        let mut head = [0; R2t::LEN];
        self.socket.read_exact(&mut head).expect("the node answers");
        assert_eq!(head[0], PduType::R2T.0, "{head:?}");
        R2t::read(&head).expect("it is whole")
    }

    /// Sends all that an R2T asked for.
    pub fn data(&mut self, r2t: &R2t, data: &[u8]) {
        assert_eq!(r2t.r2tl.get() as usize, data.len());
        let pdu = H2cData {
            ch: CommonHeader {
                flags: LAST_PDU,
                ..CommonHeader::default()
            },
            cccid: r2t.cccid,
            ttag: r2t.ttag,
            datao: r2t.r2to,
            datal: r2t.r2tl,
            ..H2cData::default()
        };
        let mut bytes = Vec::new();
        frame::put(&mut bytes, pdu, data.len(), &Format::default());
        bytes.extend_from_slice(data);
        self.socket.write_all(&bytes).expect("the node reads");
    }

    /// True if the node ends the connection without another word but a C2HTermReq.
    pub fn is_ended(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty() || rest[0] == PduType::C2H_TERM_REQ.0,
            Err(cause) => cause.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
