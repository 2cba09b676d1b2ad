//! Drives that want other than the specification says, by what PCI says they are.
//!
//! Only what keeps a drive from being served, or makes it slow, is here. The lists are those of Linux (`nvme_id_table` of
//! drivers/nvme/host/pci.c) and of SPDK (lib/nvme/nvme_quirks.c); each line says which of them has it.

/// What PCI says a device is: Vendor ID and Device ID (PCIe 7.5.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PciId {
    /// Who made it.
    pub vendor: u16,
    /// Which of that maker's.
    pub device: u16,
}

/// What a drive wants.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Quirks(u8);

impl Quirks {
    /// No register may be read for [`DISABLE_PAUSE_MS`] after it was disabled (NVME_QUIRK_DELAY_BEFORE_CHK_RDY).
    pub const SLOW_TO_DISABLE: Quirks = Quirks(1 << 0);
    /// It says that it has Write Zeroes, and had better not be given any (NVME_QUIRK_DISABLE_WRITE_ZEROES).
    pub const NO_WRITE_ZEROES: Quirks = Quirks(1 << 1);
    /// Reads and writes had better not cross its stripes, which it tells in byte 3 of the vendor specific part of Identify
    /// Controller, as a power of two of pages (NVME_QUIRK_STRIPE_SIZE, NVME_INTEL_QUIRK_STRIPING).
    pub const STRIPES: Quirks = Quirks(1 << 2);

    /// Those of a device.
    pub fn of(id: PciId) -> Quirks {
        let of_it = |(vendor, device, _): &&(u16, u16, Quirks)| {
            (*vendor, *device) == (id.vendor, id.device)
        };
        KNOWN.iter().find(of_it).map_or(Quirks(0), |known| known.2)
    }

    /// True if it has this one.
    pub fn has(self, quirk: Quirks) -> bool {
        self.0 & quirk.0 != 0
    }

    const fn and(self, other: Quirks) -> Quirks {
        Quirks(self.0 | other.0)
    }
}

/// As long as Linux waits (NVME_QUIRK_DELAY_AMOUNT), in milliseconds.
pub const DISABLE_PAUSE_MS: u32 = 2_300;

const KNOWN: [(u16, u16, Quirks); 15] = [
    // Intel 750, P3500, P3600, P3700: both.
    (0x8086, 0x0953, Quirks::STRIPES),
    // Intel P3520: both.
    (0x8086, 0x0A53, Quirks::STRIPES),
    // Intel P4500, P4600: both.
    (0x8086, 0x0A54, Quirks::STRIPES),
    // Dell Express Flash P4600: both.
    (0x8086, 0x0A55, Quirks::STRIPES),
    // Intel: SPDK.
    (0x8086, 0x0B60, Quirks::STRIPES),
    // Intel 600p, P3100: Linux.
    (0x8086, 0xF1A5, Quirks::NO_WRITE_ZEROES),
    // Samsung PM1725: both.
    (0x144D, 0xA821, Quirks::SLOW_TO_DISABLE),
    // Samsung PM1725a: both, Write Zeroes Linux.
    (
        0x144D,
        0xA822,
        Quirks::SLOW_TO_DISABLE.and(Quirks::NO_WRITE_ZEROES),
    ),
    // HGST: Linux.
    (0x1C58, 0x0003, Quirks::SLOW_TO_DISABLE),
    // WDC SN200: Linux.
    (0x1C58, 0x0023, Quirks::SLOW_TO_DISABLE),
    // Memblaze Pblaze4: both.
    (0x1C5F, 0x0540, Quirks::SLOW_TO_DISABLE),
    // Seagate Nytro: Linux.
    (0x1BB1, 0x0100, Quirks::SLOW_TO_DISABLE),
    // SK Hynix PC400: Linux.
    (0x1C5C, 0x1504, Quirks::NO_WRITE_ZEROES),
    // Sandisk Skyhawk: Linux.
    (0x15B7, 0x2001, Quirks::NO_WRITE_ZEROES),
    // SPCC: Linux.
    (0x1D97, 0x2263, Quirks::NO_WRITE_ZEROES),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_has_its_own_quirks() {
        let of = |vendor, device| Quirks::of(PciId { vendor, device });
        let pm1725a = of(0x144D, 0xA822);
        assert!(pm1725a.has(Quirks::SLOW_TO_DISABLE) && pm1725a.has(Quirks::NO_WRITE_ZEROES));
        assert!(!pm1725a.has(Quirks::STRIPES) && of(0x8086, 0x0953).has(Quirks::STRIPES));
        for other in [of(0x144D, 0x0953), of(0, 0), of(0xFFFF, 0xFFFF)] {
            assert_eq!(other, Quirks::default());
        }
    }
}
