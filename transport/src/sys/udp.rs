//! Many datagrams with one system call, and the options of a UDP socket that software RoCEv2 needs.
//!
//! A part of the room `sys`, where `unsafe` lives. What leaves it is safe: [`Datagrams`] borrows the
//! bytes it names, and an [`Inbox`] owns the memory that the system writes.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::PIECES_MAX;

/// Messages of one [`Datagrams`].
pub const MESSAGES_MAX: usize = 64;
/// Datagrams that one message may be cut into, by kernels of any age.
pub const SEGMENTS_MAX: usize = 64;
/// Messages that one [`Inbox::receive`] takes.
const INBOX: usize = 16;
/// Bytes of one message: datagrams of one flow come as one.
const MESSAGE_LEN: usize = 65_536;
/// Room for the control messages of one message, in words of 8 bytes.
const CONTROL_WORDS: usize = 12;

/// A socket address as the system has it.
#[derive(Clone, Copy)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    fn of(address: SocketAddr) -> (Name, libc::socklen_t) {
        match address {
            SocketAddr::V4(v4) => {
                let name = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                (Name { v4: name }, size_of::<libc::sockaddr_in>() as _)
            }
            SocketAddr::V6(v6) => {
                let name = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                (Name { v6: name }, size_of::<libc::sockaddr_in6>() as _)
            }
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        // SAFETY: both kinds begin with the family, every bit pattern is a value of either, and the
        // union was all written before.
        unsafe {
            match i32::from(self.v4.sin_family) {
                libc::AF_INET => {
                    let ip = Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes());
                    Some(SocketAddrV4::new(ip, u16::from_be(self.v4.sin_port)).into())
                }
                libc::AF_INET6 => {
                    let (ip, scope) = (self.v6.sin6_addr.s6_addr, self.v6.sin6_scope_id);
                    let port = u16::from_be(self.v6.sin6_port);
                    Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
                }
                _ => None,
            }
        }
    }
}

/// Datagrams to one address. Those of one length, the last may be shorter, can go as one message that
/// is cut on the way (UDP_SEGMENT).
pub struct Datagrams<'a> {
    to: SocketAddr,
    pieces: [MaybeUninit<libc::iovec>; PIECES_MAX],
    count: usize,
    /// Of each message: where its pieces end, and the length it is cut into if it is.
    messages: [(u16, u16); MESSAGES_MAX],
    len: usize,
    borrows: PhantomData<&'a [u8]>,
}

impl<'a> Datagrams<'a> {
    /// None yet.
    pub fn new(to: SocketAddr) -> Datagrams<'a> {
        Datagrams {
            to,
            pieces: [const { MaybeUninit::uninit() }; PIECES_MAX],
            count: 0,
            messages: [(0, 0); MESSAGES_MAX],
            len: 0,
            borrows: PhantomData,
        }
    }

    /// Begins a message, which is cut into datagrams of this length unless it is 0. False if there is
    /// no room for one.
    pub fn begin(&mut self, segment: u16) -> bool {
        if self.len == MESSAGES_MAX {
            return false;
        }
        self.messages[self.len] = (self.count as u16, segment);
        self.len += 1;
        true
    }

    /// True if so many pieces fit yet.
    pub fn has_room(&self, pieces: usize) -> bool {
        self.count + pieces <= PIECES_MAX
    }

    /// Adds a piece to the message that was begun. False if there is no room for it.
    pub fn push(&mut self, piece: &'a [u8]) -> bool {
        if piece.is_empty() {
            return true;
        }
        if self.count == PIECES_MAX {
            return false;
        }
        self.pieces[self.count].write(libc::iovec {
            iov_base: piece.as_ptr().cast_mut().cast(),
            iov_len: piece.len(),
        });
        self.count += 1;
        self.messages[self.len - 1].0 = self.count as u16;
        true
    }

    /// Sends the messages. How many were.
    ///
    /// # Errors
    /// Of sendmmsg, for the first message; `WouldBlock` if there is no room for it.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        /// A control message with a u16, and room for its alignment.
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Control {
            header: libc::cmsghdr,
            value: u16,
            pad: [u8; 6],
        }
        if self.len == 0 {
            return Ok(0);
        }
        let (mut name, name_len) = Name::of(self.to);
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES_MAX];
        let mut controls = [const { MaybeUninit::<Control>::uninit() }; MESSAGES_MAX];
        let mut from = 0;
        for (i, (end, segment)) in self.messages[..self.len].iter().enumerate() {
            // SAFETY: all zeroes is a valid mmsghdr, and padding is only written this way.
            let header = headers[i].write(unsafe { std::mem::zeroed() });
            header.msg_hdr.msg_name = (&raw mut name).cast();
            header.msg_hdr.msg_namelen = name_len;
            header.msg_hdr.msg_iov = self.pieces[from..].as_mut_ptr().cast();
            header.msg_hdr.msg_iovlen = (usize::from(*end) - from) as _;
            from = usize::from(*end);
            if *segment > 0 {
                // SAFETY: as above, for a cmsghdr.
                let mut cmsg: libc::cmsghdr = unsafe { std::mem::zeroed() };
                // SAFETY: this one only computes.
                cmsg.cmsg_len = unsafe { libc::CMSG_LEN(2) } as _;
                cmsg.cmsg_level = libc::SOL_UDP;
                cmsg.cmsg_type = libc::UDP_SEGMENT;
                let control = controls[i].write(Control {
                    header: cmsg,
                    value: *segment,
                    pad: [0; 6],
                });
                header.msg_hdr.msg_control = (&raw mut *control).cast();
                header.msg_hdr.msg_controllen = size_of::<Control>() as _;
            }
        }
        // SAFETY: `len` headers were written. Their pieces were, and name memory that is borrowed for as
        // long as this lives; name and controls outlive the call, which only reads all of it but the
        // length in the headers.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                self.len as libc::c_uint,
                libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(sent as usize)
    }
}

/// Memory for datagrams to come.
pub struct Inbox {
    bytes: Box<[u8]>,
    names: Box<[Name; INBOX]>,
    controls: Box<[[u64; CONTROL_WORDS]; INBOX]>,
    lens: [usize; INBOX],
    control_lens: [usize; INBOX],
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inbox({INBOX})")
    }
}

/// A message that came: a datagram, or several of one flow.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Each datagram's length, but the last's, which may be less.
    pub segment: usize,
    /// Datagrams that the socket had no room for, ever.
    pub overflows: Option<u32>,
}

impl Default for Inbox {
    fn default() -> Inbox {
        // SAFETY: all zeroes is a valid address of no family.
        let name: Name = unsafe { std::mem::zeroed() };
        Inbox {
            bytes: vec![0; INBOX * MESSAGE_LEN].into_boxed_slice(),
            names: Box::new([name; INBOX]),
            controls: Box::new([[0; CONTROL_WORDS]; INBOX]),
            lens: [0; INBOX],
            control_lens: [0; INBOX],
        }
    }
}

impl Inbox {
    /// Takes what is there, without waiting: so many messages, to be looked at by [`Inbox::get`]. If
    /// it is [`Inbox::CAPACITY`] there may be more.
    ///
    /// # Errors
    /// Of recvmmsg; `WouldBlock` if there is nothing.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; INBOX];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; INBOX];
        for (i, bytes) in self.bytes.chunks_exact_mut(MESSAGE_LEN).enumerate() {
            let piece = pieces[i].write(libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: bytes.len(),
            });
            // SAFETY: all zeroes is a valid mmsghdr, and padding is only written this way.
            let header = headers[i].write(unsafe { std::mem::zeroed() });
            header.msg_hdr.msg_name = (&raw mut self.names[i]).cast();
            header.msg_hdr.msg_namelen = size_of::<Name>() as _;
            header.msg_hdr.msg_iov = &raw mut *piece;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = self.controls[i].as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of_val(&self.controls[i]) as _;
        }
        // SAFETY: all headers were written, and name memory of ours, as long as they say, that nobody
        // else refers to during the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                INBOX as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        for (i, header) in headers.iter().enumerate().take(count as usize) {
            // SAFETY: it was written above, and by the system.
            let header = unsafe { header.assume_init_ref() };
            self.lens[i] = header.msg_len as usize;
            self.control_lens[i] = header.msg_hdr.msg_controllen;
        }
        Ok(count as usize)
    }

    /// Most messages that are taken at once.
    pub const CAPACITY: usize = INBOX;

    /// Message `i` of those taken last; `None` if it came from nowhere.
    pub fn get(&self, i: usize) -> Option<Received<'_>> {
        let bytes = &self.bytes[i * MESSAGE_LEN..][..self.lens[i].min(MESSAGE_LEN)];
        let mut received = Received {
            from: self.names[i].address()?,
            bytes,
            segment: bytes.len().max(1),
            overflows: None,
        };
        let control: &[u8] = bytemuck::cast_slice(&self.controls[i]);
        let mut rest = &control[..self.control_lens[i].min(control.len())];
        const HEAD: usize = size_of::<libc::cmsghdr>();
        while rest.len() >= HEAD + 4 {
            let len = usize::from_ne_bytes(rest[..8].try_into().expect("eight"));
            let word = |at: usize| i32::from_ne_bytes(rest[at..at + 4].try_into().expect("four"));
            match (word(8), word(12)) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    received.segment = usize::try_from(word(HEAD)).unwrap_or(0).max(1);
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    received.overflows = Some(word(HEAD) as u32)
                }
                _ => {}
            }
            rest = rest.get(len.max(HEAD).next_multiple_of(8)..).unwrap_or(&[]);
        }
        Some(received)
    }
}

fn set<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the value lives through the call, which reads as many bytes as it has.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Never fragments, and does not learn from others how long packets may be. An unconnected IPv4
/// socket then sends identification 0, or with UDP_SEGMENT the number of the piece.
///
/// # Errors
/// Of setsockopt.
pub fn never_fragment(socket: BorrowedFd<'_>, v4: bool) -> io::Result<()> {
    if v4 {
        set(
            socket,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            &libc::IP_PMTUDISC_PROBE,
        )
    } else {
        set(
            socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            &libc::IPV6_PMTUDISC_PROBE,
        )
    }
}

/// Takes IPv6 datagrams without a checksum, which other UDP over IPv6 has to have: RoCEv2 peers send none, since the ICRC
/// covers more (InfiniBand Architecture, Annex A17: the checksum field is 0).
///
/// # Errors
/// Of setsockopt.
pub fn take_without_checksum(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_UDP, UDP_NO_CHECK6_RX, &1i32)
}

/// Of linux/udp.h.
const UDP_NO_CHECK6_RX: libc::c_int = 102;

/// Takes datagrams of one flow as one message.
///
/// # Errors
/// Of setsockopt: kernels before 5.0 do not know it.
pub fn receive_together(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_UDP, libc::UDP_GRO, &1i32)
}

/// Is told with each message how many there was no room for.
///
/// # Errors
/// Of setsockopt.
pub fn count_overflows(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &1i32)
}

/// Asks for this much room for datagrams to come, beyond the system's limit if that is allowed
/// (CAP_NET_ADMIN). How much there is.
///
/// # Errors
/// Of setsockopt or getsockopt.
pub fn receive_buffer(socket: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    let wanted = libc::c_int::try_from(len).unwrap_or(libc::c_int::MAX);
    if set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &wanted).is_err() {
        set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &wanted)?;
    }
    socket2::SockRef::from(&socket).recv_buffer_size()
}

fn op(code: u32, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

fn attach(
    socket: BorrowedFd<'_>,
    name: libc::c_int,
    program: &mut [libc::sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // The program is copied by the call, which reads as many instructions as it is told there are.
    set(socket, libc::SOL_SOCKET, name, &program)
}

/// Bytes, before it, of a RoCEv2 datagram's BTH and DETH, and of a MAD's header.
const MAD: u32 = 20;
const CM_BODY: u32 = MAD + 24;

/// Deals the datagrams of sockets that share an address (SO_REUSEPORT): packets go to the socket with
/// the number that the low byte of the queue pair's number says, modulo `workers`; messages of the
/// connection manager by the low byte of the receiver's communication ID; requests for connections to
/// the socket numbered `workers` if there is a `front`, else to the first. Sockets are numbered in the
/// order they were bound.
///
/// # Errors
/// Of setsockopt.
pub fn steer(socket: BorrowedFd<'_>, workers: u8, front: bool) -> io::Result<()> {
    use libc::{BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_MOD, BPF_RET};
    let n = u32::from(workers);
    let load = BPF_LD | BPF_B | BPF_ABS;
    let mut program = [
        op(load, 0),
        jump(BPF_JMP | BPF_JEQ | BPF_K, 0x64, 3, 0), // a UD SEND: CM
        op(load, 7),
        op(BPF_ALU | BPF_MOD | BPF_K, n),
        op(BPF_RET | BPF_A, 0),
        op(load, MAD + 17),
        jump(BPF_JMP | BPF_JEQ | BPF_K, 0x10, 3, 0), // a REQ
        op(load, CM_BODY + 7),
        op(BPF_ALU | BPF_MOD | BPF_K, n),
        op(BPF_RET | BPF_A, 0),
        op(BPF_RET | BPF_K, if front { n } else { 0 }),
    ];
    attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, &mut program)
}

/// Takes only IPv4 datagrams with identification 0 and "do not fragment": to see what we send.
///
/// # Errors
/// Of setsockopt.
pub fn only_plain(socket: BorrowedFd<'_>) -> io::Result<()> {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let ip = libc::SKF_NET_OFF as u32;
    let mut program = [
        op(BPF_LD | BPF_W | BPF_ABS, ip.wrapping_add(4)),
        jump(BPF_JMP | BPF_JEQ | BPF_K, 0x0000_4000, 0, 1),
        op(BPF_RET | BPF_K, u32::MAX),
        op(BPF_RET | BPF_K, 0),
    ];
    attach(socket, libc::SO_ATTACH_FILTER, &mut program)
}

/// The name of the interface that has an address.
///
/// # Errors
/// Of getifaddrs; `AddrNotAvailable` if none has it.
pub fn interface_of(ip: IpAddr) -> io::Result<String> {
    let mut list = std::ptr::null_mut();
    // SAFETY: it writes the pointer, which is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = None;
    let mut at = list;
    // SAFETY: the list is walked as it was made, until its end; it is freed once, afterwards.
    while let Some(entry) = unsafe { at.as_ref() } {
        at = entry.ifa_next;
        // SAFETY: an address is null, or as long as its family says.
        let address = unsafe {
            match entry.ifa_addr.as_ref() {
                Some(any) if i32::from(any.sa_family) == libc::AF_INET => {
                    let v4 = &*entry.ifa_addr.cast::<libc::sockaddr_in>();
                    IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes())
                }
                Some(any) if i32::from(any.sa_family) == libc::AF_INET6 => {
                    let v6 = &*entry.ifa_addr.cast::<libc::sockaddr_in6>();
                    IpAddr::from(v6.sin6_addr.s6_addr)
                }
                _ => continue,
            }
        };
        // All of 127/8 is the loopback interface's.
        if address == ip || (ip.is_loopback() && address.is_loopback() && ip.is_ipv4()) {
            // SAFETY: the name is a string with its end, as long as the list lives.
            let name = unsafe { std::ffi::CStr::from_ptr(entry.ifa_name) };
            found = Some(name.to_string_lossy().into_owned());
            break;
        }
    }
    // SAFETY: it was made above and is not used any more.
    unsafe { libc::freeifaddrs(list) };
    found.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

/// What an interface carries, in bytes of IP packets.
///
/// # Errors
/// Of ioctl, if no interface has this name.
pub fn mtu_of(name: &str) -> io::Result<u32> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM.cloexec(), None)?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut ask: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= ask.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in ask.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the structure lives through the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut ask) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this is what SIOCGIFMTU writes.
    let mtu = unsafe { ask.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(io::Error::other)
}

/// Numbers nobody can guess.
///
/// # Errors
/// Of getrandom.
pub fn random() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: eight bytes of ours are written.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn pair() -> (UdpSocket, UdpSocket, SocketAddr) {
        let (a, b) = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        let to = b.local_addr().unwrap();
        (a, b, to)
    }

    fn receive(inbox: &mut Inbox, socket: &UdpSocket) -> usize {
        for _ in 0..1000 {
            match inbox.receive(socket.as_fd()) {
                Ok(count) => return count,
                Err(cause) => assert_eq!(cause.kind(), io::ErrorKind::WouldBlock),
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("nothing came");
    }

    #[test]
    fn ipv6_comes_without_a_checksum_as_well() {
        const UDP_NO_CHECK6_TX: libc::c_int = 101;
        let Ok(from) = UdpSocket::bind("[::1]:0") else {
            return eprintln!("SKIPPED: IPv6 without checksums: this machine has no ::1");
        };
        let to = UdpSocket::bind("[::1]:0").unwrap();
        set(from.as_fd(), libc::SOL_UDP, UDP_NO_CHECK6_TX, &1i32).unwrap();
        to.set_read_timeout(Some(std::time::Duration::from_millis(100)))
            .unwrap();
        let at = to.local_addr().unwrap();
        let mut bytes = [0; 8];
        // A socket like any other takes none.
        from.send_to(b"first", at).unwrap();
        to.recv(&mut bytes).unwrap_err();
        take_without_checksum(to.as_fd()).unwrap();
        from.send_to(b"second", at).unwrap();
        assert_eq!(to.recv(&mut bytes).unwrap(), 6);
    }

    #[test]
    fn interfaces_say_what_they_carry() {
        let name = interface_of(Ipv4Addr::LOCALHOST.into()).unwrap();
        assert!(mtu_of(&name).unwrap() >= 1500);
        assert!(mtu_of("no-such").is_err() && mtu_of("a-name-that-is-too-long").is_err());
    }

    #[test]
    fn messages_are_cut_and_come_together() {
        let (a, b, to) = pair();
        receive_together(b.as_fd()).unwrap();
        count_overflows(b.as_fd()).unwrap();
        let memory = [7u8; 250];
        let mut list = Datagrams::new(to);
        assert!(list.begin(100));
        assert!(list.push(&memory[..30]) && list.push(&[]) && list.push(&memory[30..]));
        assert!(list.begin(0));
        assert!(list.push(b"alone"));
        assert_eq!(list.send(a.as_fd()).unwrap(), 2);
        let mut inbox = Inbox::default();
        let (mut datagrams, mut taken) = (Vec::new(), 0);
        while datagrams.len() < 4 {
            taken += receive(&mut inbox, &b);
            for i in 0..taken {
                let message = inbox.get(i).unwrap();
                assert_eq!(message.from, a.local_addr().unwrap());
                datagrams.extend(message.bytes.chunks(message.segment).map(<[u8]>::len));
            }
            taken = 0;
        }
        assert_eq!(datagrams, [100, 100, 50, 5]);
        assert!(inbox.receive(b.as_fd()).is_err());
    }

    #[test]
    fn a_full_list_says_so() {
        let (_, _, to) = pair();
        let mut list = Datagrams::new(to);
        for _ in 0..MESSAGES_MAX {
            assert!(list.begin(0));
        }
        assert!(!list.begin(0));
        let mut list = Datagrams::new(to);
        assert!(list.begin(0));
        for _ in 0..PIECES_MAX {
            assert!(list.push(b"x"));
        }
        assert!(!list.push(b"x"));
    }

    #[test]
    fn loopback_has_an_interface() {
        assert_eq!(interface_of("127.0.0.1".parse().unwrap()).unwrap(), "lo");
        assert_eq!(interface_of("127.0.0.9".parse().unwrap()).unwrap(), "lo");
        assert!(interface_of("192.0.2.1".parse().unwrap()).is_err());
    }
}
