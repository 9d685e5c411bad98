//! Tells the agent that somebody listens at a port where it waits for that.

use agent_ebpf::AwaitedPort;
use aya_ebpf::{EbpfContext as _, helpers::bpf_get_netns_cookie, programs::SockOpsContext};

use super::maps::{ARRIVED, AWAITED, HOLDFAST_SOCK_OPS_NETNS};

/// A socket has begun to listen (`__inet_listen_sk` in net/ipv4/af_inet.c calls this once it does,
/// whatever callbacks the socket has asked for). Told once each time the agent asks: whoever begins
/// and ends that in a loop does not crowd the others out. What finds the ring full the agent sees when
/// it looks by itself.
#[inline(always)]
pub(crate) fn listening(ctx: &SockOpsContext) {
    if HOLDFAST_SOCK_OPS_NETNS.load() == 0 {
        return;
    }
    // SAFETY: the context is the one the program was given; the constant says that the helper exists.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let port = AwaitedPort::new(netns, ctx.local_port());
    if AWAITED.remove(port).is_ok()
        && let Some(mut entry) = ARRIVED.reserve::<AwaitedPort>(0)
    {
        entry.write(port);
        entry.submit(0);
    }
}
