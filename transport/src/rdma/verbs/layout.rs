//! rdma-sys writes the structs that have unions by hand, and those do not follow the headers. Sizes and places of what
//! we touch, as rdma-core has them (compared with a C program on 44.0; an ABI that rdma-core has kept since 1.0).

use std::mem::{offset_of, size_of};

use rdma_sys::*;

#[test]
fn structs_lie_as_in_c() {
    for (name, ours, c) in [
        ("ibv_wc", size_of::<ibv_wc>(), 48),
        ("ibv_send_wr", size_of::<ibv_send_wr>(), 128),
        ("ibv_recv_wr", size_of::<ibv_recv_wr>(), 32),
        ("ibv_sge", size_of::<ibv_sge>(), 16),
        ("ibv_mr", size_of::<ibv_mr>(), 48),
        ("ibv_mw", size_of::<ibv_mw>(), 32),
        ("ibv_gid", size_of::<ibv_gid>(), 16),
        ("ibv_qp_attr", size_of::<ibv_qp_attr>(), 144),
        ("ibv_qp_init_attr", size_of::<ibv_qp_init_attr>(), 64),
        ("ibv_device_attr", size_of::<ibv_device_attr>(), 232),
        ("ibv_port_attr", size_of::<ibv_port_attr>(), 52),
        ("ibv_async_event", size_of::<ibv_async_event>(), 16),
        ("rdma_cm_event", size_of::<rdma_cm_event>(), 80),
        ("rdma_conn_param", size_of::<rdma_conn_param>(), 24),
        ("rdma_cm_id", size_of::<rdma_cm_id>(), 416),
    ] {
        assert_eq!(ours, c, "{name}");
    }
    for (name, ours, c) in [
        ("ibv_wc.status", offset_of!(ibv_wc, status), 8),
        (
            "ibv_wc.invalidated_rkey",
            offset_of!(ibv_wc, imm_data_invalidated_rkey_union),
            24,
        ),
        ("ibv_wc.qp_num", offset_of!(ibv_wc, qp_num), 28),
        ("ibv_wc.wc_flags", offset_of!(ibv_wc, wc_flags), 36),
        ("ibv_send_wr.opcode", offset_of!(ibv_send_wr, opcode), 28),
        (
            "ibv_send_wr.invalidate_rkey",
            offset_of!(ibv_send_wr, imm_data_invalidated_rkey_union),
            36,
        ),
        ("ibv_send_wr.wr", offset_of!(ibv_send_wr, wr), 40),
        (
            "ibv_send_wr.bind_mw",
            offset_of!(ibv_send_wr, bind_mw_tso_union),
            80,
        ),
        ("rdma_cm_event.event", offset_of!(rdma_cm_event, event), 16),
        ("rdma_cm_event.param", offset_of!(rdma_cm_event, param), 24),
        ("rdma_cm_id.qp", offset_of!(rdma_cm_id, qp), 24),
        ("rdma_cm_id.route", offset_of!(rdma_cm_id, route), 32),
        (
            "ibv_async_event.event_type",
            offset_of!(ibv_async_event, event_type),
            8,
        ),
    ] {
        assert_eq!(ours, c, "{name}");
    }
}
