//! The options of whatever writes a log.

use clap::Args;

use crate::telemetry::{LogFormat, check_filter};

/// What the log looks like.
#[derive(Args, Debug)]
pub struct LogArgs {
    /// Format of the log on standard error.
    #[arg(
        long,
        env = "HOLDFAST_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value = "plain"
    )]
    pub log_format: LogFormat,

    /// Level of the log: error, warn, info, debug, trace, or a filter such as
    /// "info,holdfast::reconcile=debug".
    #[arg(long, env = "HOLDFAST_LOG", value_name = "FILTER", default_value = "info",
          value_parser = log_filter)]
    pub log_level: String,
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    check_filter(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}
