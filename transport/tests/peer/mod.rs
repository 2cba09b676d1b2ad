//! A target of a few lines on a socket of loopback, that does what a test tells it: one thread per
//! connection, blocking, memory for a drive.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ferroce_transport::tcp::frame::{self, Crc, Digests, Format, Parsed, Sender};
use ferroce_wire::Wire;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::discovery::{AdrFam, DiscoveryLogEntry, DiscoveryLogHeader, SubType, TrType};
use ferroce_wire::fabrics::{ConnectCmd, Nqn, PropertyGet, PropertySet};
use ferroce_wire::feature::{AsyncEvent, AsyncEventConfig};
use ferroce_wire::identify::{
    Cns, IdentifyController, IdentifyNamespace, LbaFormat, NamespaceList, Nidt, NsDescriptorWriter,
};
use ferroce_wire::log::LogId;
use ferroce_wire::num::{U16, U32, U64};
use ferroce_wire::opcode::{AdminOpcode, FabricsType, NvmOpcode};
use ferroce_wire::prop::{Cap, Csts, PropertyOffset};
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;
use ferroce_wire::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, H2cData, IcReq, IcResp, LAST_PDU, PduType, R2t, SUCCESS,
};

pub const BLOCK: usize = 512;
pub const BLOCKS: usize = 4096;

/// What the peer does.
#[derive(Clone)]
pub struct Script {
    /// Digests it turns on, of those asked for.
    pub dgst: u8,
    /// Sends this in place of everything, then closes.
    pub garbage: Option<Vec<u8>>,
    /// Answers Connect of this queue by this.
    pub refuse: Option<(u16, Cqe)>,
    /// Opcodes of admin commands that get no answer.
    pub silent: Vec<AdminOpcode>,
    /// Completions are elided where the host lets them be.
    pub elide: bool,
    /// SQHD is counted for hosts that asked for no SQ flow control, as by SPDK's target.
    pub counts_heads: bool,
    /// I/O queues it grants.
    pub granted: u16,
    /// In-capsule data of I/O queues.
    pub in_capsule: u32,
    /// Answers a Flush of a command that there is not.
    pub lies: bool,
    /// Instances of the discovery log, one per reading of the header.
    pub generations: VecDeque<u64>,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            dgst: 3,
            garbage: None,
            refuse: None,
            silent: Vec::new(),
            elide: true,
            counts_heads: false,
            granted: 8,
            in_capsule: 8192,
            lies: false,
            generations: VecDeque::new(),
        }
    }
}

#[derive(Default)]
pub struct State {
    pub script: Script,
    pub memory: Vec<u8>,
    /// What is told with the next admin command.
    pub events: VecDeque<AsyncEvent>,
    pub keep_alives: usize,
    pub connects: Vec<(u16, u32)>,
    pub shutdowns: usize,
    /// Closes the connection of the command that makes this 0.
    pub cut_in: Option<usize>,
    /// H2CTermReqs that came.
    pub terms: usize,
    sockets: Vec<TcpStream>,
}

pub struct Peer {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
}

impl Peer {
    pub fn start(script: Script) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            script,
            memory: vec![0; BLOCK * BLOCKS],
            ..State::default()
        }));
        let shared = state.clone();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.unwrap();
                socket.set_nodelay(true).unwrap();
                let state = shared.clone();
                state
                    .lock()
                    .unwrap()
                    .sockets
                    .push(socket.try_clone().unwrap());
                // A host that goes away is how most of these end.
                thread::spawn(move || {
                    let held = socket.try_clone().unwrap();
                    let end = Link::new(socket, state).run();
                    let _ = held.shutdown(std::net::Shutdown::Both);
                    end
                });
            }
        });
        Peer { address, state }
    }

    /// All connections end at once, as if the target had died.
    pub fn cut(&self) {
        for socket in self.state.lock().unwrap().sockets.drain(..) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

struct Link {
    socket: TcpStream,
    state: Arc<Mutex<State>>,
    format: Format,
    bytes: Vec<u8>,
    qid: u16,
    no_flow_control: bool,
    enabled: bool,
    shn: u8,
    aers: VecDeque<u16>,
}

/// What came: a command or data, and the bytes behind its header.
enum Came {
    IcReq(IcReq),
    Command(Sqe, Vec<u8>),
    Data(H2cData, Vec<u8>),
    Term,
}

impl Link {
    fn new(socket: TcpStream, state: Arc<Mutex<State>>) -> Link {
        Link {
            socket,
            state,
            format: Format::default(),
            bytes: Vec::new(),
            qid: 0,
            no_flow_control: false,
            enabled: false,
            shn: 0,
            aers: VecDeque::new(),
        }
    }

    fn run(mut self) -> io::Result<()> {
        let garbage = self.state.lock().unwrap().script.garbage.clone();
        if let Some(garbage) = garbage {
            self.socket.write_all(&garbage)?;
            // Not closed while ICReq is unread: that would be a reset.
            self.socket
                .set_read_timeout(Some(Duration::from_millis(50)))?;
            let _ = self.socket.read(&mut [0; 256]);
            return Ok(());
        }
        loop {
            match self.next()? {
                Came::IcReq(icreq) => {
                    let dgst = icreq.dgst & self.state.lock().unwrap().script.dgst;
                    self.put(IcResp::new(0, dgst, 4096), &[])?;
                    self.format = Format::new(Digests::from_dgst(dgst), 0).unwrap();
                }
                Came::Command(sqe, data) => {
                    if !self.command(sqe, data)? {
                        return Ok(());
                    }
                }
                Came::Data(..) => panic!("data nobody asked for"),
                Came::Term => {
                    self.state.lock().unwrap().terms += 1;
                    return Ok(());
                }
            }
        }
    }

    fn next(&mut self) -> io::Result<Came> {
        loop {
            let need = match frame::parse(&self.bytes, Sender::Host, &self.format).unwrap() {
                Parsed::Need(need) => need,
                Parsed::Pdu(shape) if self.bytes.len() < shape.plen => shape.plen,
                Parsed::Pdu(shape) => {
                    let pdu: Vec<u8> = self.bytes.drain(..shape.plen).collect();
                    let data = pdu[shape.data_at..shape.data_at + shape.data_len].to_vec();
                    if shape.ddgst {
                        let digest = frame::digest_at(&pdu, shape.data_at + shape.data_len);
                        assert_eq!(digest, Crc::of(&data));
                    }
                    return Ok(match shape.kind {
                        PduType::IC_REQ => Came::IcReq(IcReq::read(&pdu).unwrap()),
                        PduType::CAPSULE_CMD => {
                            Came::Command(CapsuleCmd::read(&pdu).unwrap().sqe, data)
                        }
                        PduType::H2C_DATA => Came::Data(H2cData::read(&pdu).unwrap(), data),
                        _ => Came::Term,
                    });
                }
            };
            let have = self.bytes.len();
            self.bytes.resize(need, 0);
            self.socket.read_exact(&mut self.bytes[have..])?;
        }
    }

    fn put<P: frame::Pdu>(&mut self, pdu: P, data: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame::put(&mut bytes, pdu, data.len(), &self.format);
        bytes.extend_from_slice(data);
        if self.format.digests.data && !data.is_empty() {
            bytes.extend_from_slice(&Crc::of(data).to_le_bytes());
        }
        self.socket.write_all(&bytes)
    }

    fn answer(&mut self, cqe: Cqe) -> io::Result<()> {
        let pdu = CapsuleResp {
            cqe,
            ..CapsuleResp::default()
        };
        self.put(pdu, &[])
    }

    /// Data in two PDUs if there is enough of it, then the completion.
    fn give(&mut self, cid: u16, data: &[u8]) -> io::Result<()> {
        let elide = self.no_flow_control && self.state.lock().unwrap().script.elide;
        let half = data.len() / 2 / 4 * 4;
        for (at, part) in [(0, &data[..half]), (half, &data[half..])] {
            if part.is_empty() {
                continue;
            }
            let mut pdu = C2hData {
                cccid: U16::new(cid),
                datao: U32::new(at as u32),
                datal: U32::new(part.len() as u32),
                ..C2hData::default()
            };
            if at + part.len() == data.len() {
                pdu.ch.flags = LAST_PDU | if elide { SUCCESS } else { 0 };
            }
            self.put(pdu, part)?;
        }
        if elide {
            return Ok(());
        }
        self.answer(Cqe::new(cid, Status::SUCCESS))
    }

    /// The data of a command that sends some.
    fn fetch(&mut self, sqe: &Sqe, inside: Vec<u8>) -> io::Result<Vec<u8>> {
        let len = sqe.dptr.len.get();
        if sqe.dptr.kind == Sgl::IN_CAPSULE {
            assert_eq!(inside.len(), len as usize);
            return Ok(inside);
        }
        let mut all = Vec::new();
        while all.len() < len as usize {
            let at = all.len() as u32;
            let r2tl = (len - at).min(10_000);
            let r2t = R2t {
                cccid: sqe.cid,
                ttag: U16::new(0x77),
                r2to: U32::new(at),
                r2tl: U32::new(r2tl),
                ..R2t::default()
            };
            self.put(r2t, &[])?;
            while all.len() < (at + r2tl) as usize {
                // Commands that came before the host saw the R2T are refused: the tests send none.
                let Came::Data(pdu, data) = self.next()? else {
                    panic!("something else than data")
                };
                assert_eq!((pdu.cccid, pdu.ttag.get()), (sqe.cid, 0x77));
                assert_eq!(pdu.datao.get() as usize, all.len());
                all.extend_from_slice(&data);
            }
        }
        Ok(all)
    }

    fn command(&mut self, sqe: Sqe, inside: Vec<u8>) -> io::Result<bool> {
        {
            let mut state = self.state.lock().unwrap();
            if let Some(left) = &mut state.cut_in
                && self.qid > 0
            {
                *left -= 1;
                if *left == 0 {
                    state.cut_in = None;
                    return Ok(false);
                }
            }
        }
        let cid = sqe.cid.get();
        if let Some(fctype) = sqe.fabrics_type() {
            self.fabrics(&sqe, fctype)?;
        } else if self.qid == 0 {
            self.admin(&sqe)?;
        } else {
            let lba = sqe.slba() as usize;
            let (from, to) = (lba * BLOCK, (lba + sqe.blocks() as usize) * BLOCK);
            match sqe.nvm_opcode() {
                _ if to > BLOCKS * BLOCK => {
                    self.answer(Cqe::new(cid, Status::LBA_OUT_OF_RANGE.dnr()))?;
                }
                NvmOpcode::READ => {
                    let data = self.state.lock().unwrap().memory[from..to].to_vec();
                    self.give(cid, &data)?;
                }
                NvmOpcode::WRITE => {
                    let data = self.fetch(&sqe, inside)?;
                    self.state.lock().unwrap().memory[from..to].copy_from_slice(&data);
                    self.answer(Cqe::new(cid, Status::SUCCESS))?;
                }
                _ => {
                    let lies = self.state.lock().unwrap().script.lies;
                    let cid = if lies { cid ^ 0x8000 } else { cid };
                    self.answer(Cqe::new(cid, Status::SUCCESS))?;
                }
            }
        }
        Ok(true)
    }

    fn fabrics(&mut self, sqe: &Sqe, fctype: FabricsType) -> io::Result<()> {
        let cid = sqe.cid.get();
        let mut cqe = Cqe::new(cid, Status::SUCCESS);
        match fctype {
            FabricsType::CONNECT => {
                let connect = *ConnectCmd::of(sqe);
                self.qid = connect.qid.get();
                self.no_flow_control = connect.no_sq_flow_control();
                let mut state = self.state.lock().unwrap();
                state.connects.push((self.qid, connect.entries()));
                cqe = cqe.with_dw0(17);
                if self.no_flow_control && !state.script.counts_heads {
                    cqe.sqhd.set(Cqe::SQHD_NO_FLOW_CONTROL);
                }
                if let Some((qid, refusal)) = state.script.refuse
                    && qid == self.qid
                {
                    cqe = refusal;
                    cqe.cid.set(cid);
                }
            }
            FabricsType::PROPERTY_GET => {
                let value = match PropertyOffset(PropertyGet::of(sqe).ofst.get()) {
                    PropertyOffset::CAP => {
                        Cap::default()
                            .with_mqes_z(127)
                            .with_to(4)
                            .with_css(Cap::CSS_NVM)
                            .0
                    }
                    PropertyOffset::CSTS => {
                        let shst = if self.shn > 0 { Csts::SHST_COMPLETE } else { 0 };
                        let csts = Csts::default().with_rdy(self.enabled).with_shst(shst);
                        u64::from(csts.0)
                    }
                    _ => u64::from(self.enabled),
                };
                cqe = cqe.with_result64(value);
            }
            FabricsType::PROPERTY_SET => {
                let set = PropertySet::of(sqe);
                assert_eq!(PropertyOffset(set.ofst.get()), PropertyOffset::CC);
                let cc = ferroce_wire::prop::Cc(set.value.get() as u32);
                self.enabled = cc.en();
                self.shn = cc.shn();
                self.state.lock().unwrap().shutdowns += usize::from(self.shn > 0);
            }
            _ => cqe.set_status(Status::INVALID_FIELD.dnr()),
        }
        self.answer(cqe)
    }

    fn admin(&mut self, sqe: &Sqe) -> io::Result<()> {
        let cid = sqe.cid.get();
        let opcode = sqe.admin_opcode();
        let (silent, granted, event) = {
            let mut state = self.state.lock().unwrap();
            let event = match self.aers.is_empty() {
                true => None,
                false => state.events.pop_front(),
            };
            let script = &state.script;
            (script.silent.contains(&opcode), script.granted, event)
        };
        if let Some(event) = event {
            let aer = self.aers.pop_front().unwrap();
            self.answer(Cqe::new(aer, Status::SUCCESS).with_dw0(event.dw0()))?;
        }
        if silent {
            return Ok(());
        }
        match opcode {
            AdminOpcode::IDENTIFY => {
                let data = self.identify(sqe);
                match data {
                    Some(data) => self.give(cid, &data),
                    None => self.answer(Cqe::new(cid, Status::INVALID_NAMESPACE.dnr())),
                }
            }
            AdminOpcode::GET_LOG_PAGE => {
                let page = self.log_page(sqe.lid(), sqe.log_offset());
                let from = sqe.log_offset() as usize;
                self.give(cid, &page[from..from + sqe.log_len() as usize])
            }
            AdminOpcode::SET_FEATURES => {
                let answer = Cqe::new(cid, Status::SUCCESS);
                let z = u32::from(granted) - 1;
                self.answer(answer.with_dw0(z << 16 | z))
            }
            AdminOpcode::ASYNC_EVENT_REQUEST => {
                self.aers.push_back(cid);
                Ok(())
            }
            AdminOpcode::KEEP_ALIVE => {
                self.state.lock().unwrap().keep_alives += 1;
                self.answer(Cqe::new(cid, Status::SUCCESS))
            }
            _ => self.answer(Cqe::new(cid, Status::INVALID_OPCODE.dnr())),
        }
    }

    fn identify(&mut self, sqe: &Sqe) -> Option<Vec<u8>> {
        let state = self.state.lock().unwrap();
        Some(match sqe.cns() {
            Cns::CONTROLLER => {
                let mut id = IdentifyController {
                    mdts: 5,
                    kas: U16::new(10),
                    maxcmd: U16::new(64),
                    ioccsz: U32::new((64 + state.script.in_capsule) / 16),
                    aerl_z: 3,
                    oaes: U32::new(
                        AsyncEventConfig::NS_ATTRIBUTE | AsyncEventConfig::DISCOVERY_LOG,
                    ),
                    ..IdentifyController::default()
                };
                id.set_names("SERIAL", "Scripted", "1");
                id.as_bytes().to_vec()
            }
            Cns::ACTIVE_NAMESPACES => {
                let after = sqe.nsid.get();
                let nsids = [1, 7].into_iter().filter(|&nsid| nsid > after);
                NamespaceList::collect(nsids).as_bytes().to_vec()
            }
            Cns::NAMESPACE if matches!(sqe.nsid.get(), 1 | 7) => {
                let mut id = IdentifyNamespace {
                    nsze: U64::new(BLOCKS as u64),
                    nguid: [0x11; 16],
                    ..IdentifyNamespace::default()
                };
                id.lbaf[0] = LbaFormat::new(9, 0);
                if sqe.nsid.get() == 7 {
                    id.nsattr = IdentifyNamespace::NSATTR_WRITE_PROTECTED;
                }
                id.as_bytes().to_vec()
            }
            Cns::NS_DESCRIPTORS => {
                let mut list = vec![0; 4096];
                let mut writer = NsDescriptorWriter::new(&mut list);
                assert!(writer.push(Nidt::UUID, &[sqe.nsid.get() as u8; 16]));
                list
            }
            _ => return None,
        })
    }

    fn log_page(&mut self, lid: LogId, offset: u64) -> Vec<u8> {
        let mut state = self.state.lock().unwrap();
        if lid != LogId::DISCOVERY {
            let mut page = vec![0; 4096];
            page[0] = 7;
            return page;
        }
        let generations = &mut state.script.generations;
        let genctr = match generations.len() {
            0 => 1,
            1 => generations[0],
            _ if offset == 0 => generations.pop_front().unwrap(),
            _ => generations[0],
        };
        const ENTRIES: u64 = 70;
        let header = DiscoveryLogHeader {
            genctr: U64::new(genctr),
            numrec: U64::new(ENTRIES),
            ..DiscoveryLogHeader::default()
        };
        let mut page = header.as_bytes().to_vec();
        for i in 0..ENTRIES {
            let name = format!("nqn.2014-08.org.example:{i}");
            let mut entry = DiscoveryLogEntry {
                trtype: if i == 3 { TrType::RDMA } else { TrType::TCP },
                adrfam: AdrFam::IPV4,
                subtype: if i == 0 {
                    SubType::CURRENT_DISCOVERY
                } else {
                    SubType::NVM
                },
                portid: U16::new(i as u16),
                subnqn: Nqn::new(&name).unwrap().to_field(),
                ..DiscoveryLogEntry::default()
            };
            entry.set_address(if i == 5 { "no address" } else { "192.0.2.1" }, "4420");
            page.extend_from_slice(entry.as_bytes());
        }
        page
    }
}
