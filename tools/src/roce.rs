//! What node and probe share of software RoCEv2.

use ferroce_transport::roce::udp::Options;

use crate::fail::{Result, fail};

/// Drops packets that come, to see what loss does: `PPM`, or `PPM:SEED`.
const LOSS: &str = "FERROCE_ROCE_LOSS";

/// The usual, but for what the environment of a test says.
pub fn options() -> Result<Options> {
    let Some(text) = std::env::var_os(LOSS) else {
        return Ok(Options::default());
    };
    let text = text.to_string_lossy();
    let (ppm, seed) = text.split_once(':').unwrap_or((&text, "0"));
    match (ppm.parse(), seed.parse()) {
        (Ok(loss_ppm), Ok(loss_seed)) if loss_ppm <= 1_000_000 => {
            log::warn!("{LOSS}: {loss_ppm} of a million packets are dropped on purpose");
            Ok(Options {
                loss_ppm,
                loss_seed,
                ..Options::default()
            })
        }
        _ => fail!("{LOSS}={text}: give a number up to 1000000, and a seed after a colon"),
    }
}
