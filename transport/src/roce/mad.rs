//! Messages of the communication manager: 256 bytes to a typed message and back.

use ferroce_wire::Wire;
use ferroce_wire::num::{Be16, Be32, Be64};
use ferroce_wire::roce::{
    CmAttribute, CmDreq, CmMra, CmRej, CmRep, CmReq, CmRtu, MAD_LEN, METHOD_SEND, MGMT_CLASS_CM,
    MadHeader,
};

/// A whole management datagram.
pub type Mad = [u8; MAD_LEN];

/// What it says.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// Asks for a connection.
    Req(&'a CmReq),
    /// The answer will take a while.
    Mra(&'a CmMra),
    /// Refuses.
    Rej(&'a CmRej),
    /// Accepts.
    Rep(&'a CmRep),
    /// The accepted connection is in use.
    Rtu(&'a CmRtu),
    /// Asks to disconnect.
    Dreq(&'a CmDreq),
    /// Has disconnected.
    Drep(&'a CmRtu),
}

/// The transaction ID and the message; `None` for what is no message we know.
pub fn parse(mad: &[u8]) -> Option<(u64, Message<'_>)> {
    let header = MadHeader::view(mad)?;
    let body = mad.get(MadHeader::LEN..MAD_LEN)?;
    let ours = header.base_version == 1
        && header.mgmt_class == MGMT_CLASS_CM
        && header.class_version == 2
        && header.method == METHOD_SEND;
    if !ours {
        return None;
    }
    let message = match CmAttribute(header.attribute.get()) {
        CmAttribute::REQ => Message::Req(CmReq::view(body)?),
        CmAttribute::MRA => Message::Mra(CmMra::view(body)?),
        CmAttribute::REJ => Message::Rej(CmRej::view(body)?),
        CmAttribute::REP => Message::Rep(CmRep::view(body)?),
        CmAttribute::RTU => Message::Rtu(CmRtu::view(body)?),
        CmAttribute::DREQ => Message::Dreq(CmDreq::view(body)?),
        CmAttribute::DREP => Message::Drep(CmRtu::view(body)?),
        _ => return None,
    };
    Some((header.tid.get(), message))
}

/// The datagram of a message.
pub fn build(tid: u64, message: Message<'_>) -> Mad {
    let (attribute, body) = match message {
        Message::Req(req) => (CmAttribute::REQ, req.as_bytes()),
        Message::Mra(mra) => (CmAttribute::MRA, mra.as_bytes()),
        Message::Rej(rej) => (CmAttribute::REJ, rej.as_bytes()),
        Message::Rep(rep) => (CmAttribute::REP, rep.as_bytes()),
        Message::Rtu(rtu) => (CmAttribute::RTU, rtu.as_bytes()),
        Message::Dreq(dreq) => (CmAttribute::DREQ, dreq.as_bytes()),
        Message::Drep(drep) => (CmAttribute::DREP, drep.as_bytes()),
    };
    let header = MadHeader {
        base_version: 1,
        mgmt_class: MGMT_CLASS_CM,
        class_version: 2,
        method: METHOD_SEND,
        status: Be16::new(0),
        class_specific: Be16::new(0),
        tid: Be64::new(tid),
        attribute: Be16::new(attribute.0),
        rsvd18: [0; 2],
        modifier: Be32::new(0),
    };
    let mut mad = [0; MAD_LEN];
    mad[..MadHeader::LEN].copy_from_slice(header.as_bytes());
    mad[MadHeader::LEN..].copy_from_slice(body);
    mad
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roce::{capture, packet};
    use ferroce_wire::roce::{CmaHeader, Opcode, service_id};

    #[test]
    fn captured_messages_come_back() {
        let mut kinds = std::collections::BTreeSet::new();
        let mut count = 0;
        for ip in capture::datagrams() {
            let packet = packet::parse(&ip[28..]).expect("a proper packet");
            if packet.bth.opcode != Opcode::UD_SEND_ONLY {
                continue;
            }
            let (tid, message) = parse(packet.payload).expect("a message");
            kinds.insert(packet.payload[17]);
            assert_eq!(build(tid, message), packet.payload);
            count += 1;
        }
        // REQ, REP, RTU, DREQ, DREP.
        assert_eq!(
            kinds.into_iter().collect::<Vec<_>>(),
            [0x10, 0x13, 0x14, 0x15, 0x16]
        );
        assert!(count >= 12);
    }

    /// What a stock kernel asks for, field by field.
    #[test]
    fn a_request_of_the_kernel() {
        let found = capture::datagrams().find_map(|ip| {
            let payload = packet::parse(&ip[28..]).ok()?.payload.to_vec();
            match parse(&payload)?.1 {
                Message::Req(req) if ip[12..16] == [10, 7, 0, 2] => Some(*req),
                _ => None,
            }
        });
        let req = found.expect("the kernel asked");
        assert_eq!(req.service_id.get(), service_id(4420));
        assert_eq!((req.responder_resources, req.initiator_depth), (128, 0));
        assert_eq!(
            (req.path.mtu(), req.path.rnr_retry(), req.path.rdc()),
            (3, 7, false)
        );
        assert_eq!(
            (req.local_timeout.timeout(), req.local_timeout.retry_count()),
            (20, 7)
        );
        assert_eq!(
            (req.remote_timeout.timeout(), req.remote_timeout.transport()),
            (20, 0)
        );
        assert_eq!(
            (req.cm_retries.retries(), req.cm_retries.srq()),
            (15, false)
        );
        assert_eq!(
            (req.local_lid.get(), req.remote_lid.get(), req.pkey.get()),
            (0xFFFF, 0xFFFF, 0xFFFF)
        );
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 10, 7, 0];
        assert_eq!((&req.local_gid[..15], req.local_gid[15]), (&mapped[..], 2));
        assert_eq!(
            (&req.remote_gid[..15], req.remote_gid[15]),
            (&mapped[..], 1)
        );
        assert_eq!(req.hop_limit, 64);
        let cma = CmaHeader::view(&req.private_data).expect("36 bytes");
        assert_eq!((cma.version, cma.ip_version), (0, 0x40));
        assert_eq!(
            (&cma.src[12..], &cma.dst[12..]),
            (&[10, 7, 0, 2][..], &[10, 7, 0, 1][..])
        );
    }

    #[test]
    fn other_bytes_are_no_message() {
        let mut random = fastrand::Rng::with_seed(3);
        let mad = build(1, Message::Rtu(&CmRtu::default()));
        for at in [0, 1, 2, 3, 16] {
            let mut mad = mad;
            mad[at] ^= 0x40;
            assert!(parse(&mad).is_none());
        }
        assert!(parse(&mad[..255]).is_none());
        for _ in 0..20_000 {
            let len = random.usize(..300);
            let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
            parse(&bytes);
        }
    }
}
