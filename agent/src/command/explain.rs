//! What `holdfast explain` prints.

use super::{pods, terminal::Style};
use crate::{admin::PodDetail, core::Stamp};

/// How a pod stands, and why.
#[must_use]
pub fn text(detail: &PodDetail, now: Stamp, style: Style) -> String {
    pods::table(std::slice::from_ref(&detail.pod), now, style)
}
