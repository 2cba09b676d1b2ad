//! Where a raw server is: on the target's machine already, or started here for the time of the run.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Queue, REPLY, Request, What, datagrams, value_of};
use crate::fail::{Context, Fail, Result, fail};
use crate::units::Size;
use crate::url::Url;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A raw server that can be connected to.
#[derive(Debug)]
pub struct Site {
    address: SocketAddr,
    /// Asks for its CPU time.
    control: TcpStream,
    size: u64,
    /// It ends when its stdin does, and that is with us at the latest.
    child: Option<Child>,
}

impl Site {
    /// Starts one beside a target on this machine, with a memory of `size`, on CPU `core`.
    pub fn start(beside: SocketAddr, size: Size, core: Option<usize>) -> Result<Site> {
        if TcpListener::bind((beside.ip(), 0)).is_err() {
            fail!(
                "--baseline: {} is not an address of this machine. On the target's machine, on the CPU its node runs on, \
                 start `ferroce raw-server --listen tcp://{}:4421 --core N`, and say --baseline=tcp://{}:4421 here",
                beside.ip(),
                beside.ip(),
                beside.ip()
            );
        }
        let program = std::env::current_exe().context(|| "cannot find this program's file")?;
        let at = Url::from(SocketAddr::new(beside.ip(), 0));
        let mut command = Command::new(program);
        command
            .args(["raw-server", "--until-eof", "--listen", &at.to_string()])
            .args(["--size", &size.to_string()]);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(|| "cannot start the raw server")?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        let read = BufReader::new(stdout).read_line(&mut line);
        let address = line.trim().rsplit_once("tcp://").map(|(_, at)| at.parse());
        let (Ok(_), Some(Ok(address))) = (read, address) else {
            let _ = child.kill();
            let _ = child.wait();
            fail!("the raw server did not start")
        };
        let mut site = Site::connect_at(address)?;
        site.child = Some(child);
        Ok(site)
    }

    /// Connects to one that runs.
    pub fn connect(url: &Url) -> Result<Site> {
        let mut last = Fail(String::new());
        for address in url.resolve_tcp()? {
            match Site::connect_at(address) {
                Ok(site) => return Ok(site),
                Err(why) => last = why,
            }
        }
        let Fail(why) = last;
        fail!("{why}; on that machine `ferroce raw-server --listen {url}` starts one")
    }

    fn connect_at(address: SocketAddr) -> Result<Site> {
        let (control, size) = greeted(address)?;
        Ok(Site {
            address,
            control,
            size,
            child: None,
        })
    }

    /// Bytes of its memory.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A connection to send requests on.
    pub fn queue(&self, depth: u16) -> Result<Queue> {
        let (socket, size) = greeted(self.address)?;
        Queue::new(socket, size, depth).context(|| format!("raw server at {}", self.address))
    }

    /// Datagrams with so many bytes of data each, from an address of ours.
    pub fn datagrams(&self, from: IpAddr, segment: u32, depth: u16) -> Result<datagrams::Queue> {
        datagrams::Queue::new(from, self.address, self.size, segment, depth)
            .context(|| format!("from {from} to the raw server at {}", self.address))
    }

    /// CPU time it used so far, in ns; None if its system does not tell.
    pub fn cpu_ns(&mut self) -> Option<u64> {
        let request = Request {
            what: What::Usage,
            len: 0,
            at: 0,
        };
        self.control.write_all(&request.to_bytes()).ok()?;
        let mut reply = [0; REPLY];
        self.control.read_exact(&mut reply).ok()?;
        value_of(&reply).filter(|ns| *ns > 0)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A connection, and the size in the server's greeting.
fn greeted(address: SocketAddr) -> Result<(TcpStream, u64)> {
    let what = || format!("raw server at {address}");
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE).context(what)?;
    socket.set_read_timeout(Some(PATIENCE)).context(what)?;
    socket.set_nodelay(true).context(what)?;
    let mut greeting = [0; REPLY];
    let read = socket.read_exact(&mut greeting);
    match value_of(&greeting) {
        Some(size) if read.is_ok() && size > 0 => Ok((socket, size)),
        _ => fail!("{address} does not answer as a raw server of this version of ferroce"),
    }
}
