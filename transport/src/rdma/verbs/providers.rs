//! The providers of libibverbs that a fully static executable has inside. A dynamic one has libibverbs open those that
//! are installed, when it first looks for devices.

/// Tells libibverbs of the providers that are linked in: without that, a static executable never sees a device
/// (man 3 ibv_get_device_list, STATIC LINKING). To be called once, before any other use of RDMA devices.
pub fn link_providers() {
    #[cfg(target_feature = "crt-static")]
    linked::tell();
}

#[cfg(target_feature = "crt-static")]
mod linked {
    use std::ffi::c_void;
    use std::ptr;

    /// A provider's table of functions, which is libibverbs' own affair.
    #[repr(C)]
    struct Provider {
        opaque: [u8; 0],
    }

    unsafe extern "C" {
        static verbs_provider_rxe: Provider;
        static verbs_provider_mlx5: Provider;
        static verbs_provider_mlx4: Provider;
        static verbs_provider_irdma: Provider;
        static verbs_provider_bnxt_re: Provider;
        static verbs_provider_qedr: Provider;
        static verbs_provider_vmw_pvrdma: Provider;
        /// What the macro RDMA_STATIC_PROVIDERS of verbs.h calls. The first argument is not used.
        fn ibv_static_providers(unused: *mut c_void, ...);
    }

    pub fn tell() {
        // SAFETY: the symbols are tables of the libraries named in tools/build.rs, of which only the address is taken,
        // and a null pointer ends the list.
        unsafe {
            ibv_static_providers(
                ptr::null_mut(),
                &raw const verbs_provider_rxe,
                &raw const verbs_provider_mlx5,
                &raw const verbs_provider_mlx4,
                &raw const verbs_provider_irdma,
                &raw const verbs_provider_bnxt_re,
                &raw const verbs_provider_qedr,
                &raw const verbs_provider_vmw_pvrdma,
                ptr::null::<Provider>(),
            );
        }
    }
}
