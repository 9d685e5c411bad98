//! The eBPF programs of holdfast. Entry points only; each hook family has its file in `programs/`.
//! Each is there twice, silent and loud: see `programs/say.rs`.
//!
//! All programs load and attach on Linux 5.10 and later.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// An atomic add and a value hidden from the optimizer; inline assembly for BPF is not stable yet.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod programs;

#[cfg(target_arch = "bpf")]
#[expect(clippy::needless_pass_by_value, reason = "aya's macros hand contexts over by value")]
mod entry {
    use aya_ebpf::{
        macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, sock_ops},
        programs::{SkBuffContext, SockAddrContext, SockContext, SockOpsContext, SockoptContext},
    };

    use crate::programs::{
        connect::{self, Call},
        gate, release, retransmit, sentry, sockopt,
    };

    /// What hooks of calls return to let the call go on.
    const ALLOW: i32 = 1;

    const SILENT: bool = false;
    const LOUD: bool = true;

    #[cgroup_sock_addr(connect4)]
    pub(crate) fn holdfast_connect4(ctx: SockAddrContext) -> i32 {
        answer(connect::connect::<SILENT>(&ctx, connect::asked_v4(&ctx)))
    }

    #[cgroup_sock_addr(connect4)]
    pub(crate) fn loud_connect4(ctx: SockAddrContext) -> i32 {
        answer(connect::connect::<LOUD>(&ctx, connect::asked_v4(&ctx)))
    }

    #[cgroup_sock_addr(connect6)]
    pub(crate) fn holdfast_connect6(ctx: SockAddrContext) -> i32 {
        answer(connect::connect::<SILENT>(&ctx, connect::asked_v6(&ctx)))
    }

    #[cgroup_sock_addr(connect6)]
    pub(crate) fn loud_connect6(ctx: SockAddrContext) -> i32 {
        answer(connect::connect::<LOUD>(&ctx, connect::asked_v6(&ctx)))
    }

    #[inline(always)]
    fn answer(call: Call) -> i32 {
        // Literals, so that the verifier sees the bounds of the return value.
        match call {
            Call::Goes => 1,
            Call::Fails => 0,
        }
    }

    #[cgroup_sock_addr(sendmsg4)]
    pub(crate) fn holdfast_sendmsg4(ctx: SockAddrContext) -> i32 {
        connect::query::<SILENT>(&ctx, connect::asked_v4(&ctx));
        ALLOW
    }

    #[cgroup_sock_addr(sendmsg4)]
    pub(crate) fn loud_sendmsg4(ctx: SockAddrContext) -> i32 {
        connect::query::<LOUD>(&ctx, connect::asked_v4(&ctx));
        ALLOW
    }

    #[cgroup_sock_addr(sendmsg6)]
    pub(crate) fn holdfast_sendmsg6(ctx: SockAddrContext) -> i32 {
        connect::query::<SILENT>(&ctx, connect::asked_v6(&ctx));
        ALLOW
    }

    #[cgroup_sock_addr(sendmsg6)]
    pub(crate) fn loud_sendmsg6(ctx: SockAddrContext) -> i32 {
        connect::query::<LOUD>(&ctx, connect::asked_v6(&ctx));
        ALLOW
    }

    // Has nothing to say: what it swallows is no step of a hold.
    #[cgroup_sockopt(setsockopt)]
    pub(crate) fn holdfast_setsockopt(ctx: SockoptContext) -> i32 {
        sockopt::on_call(&ctx);
        ALLOW
    }

    // The attach type stands in the section name: without it the verifier refuses a return value
    // of 2 (`check_return_code` in kernel/bpf/verifier.c).
    #[cgroup_skb(egress)]
    pub(crate) fn holdfast_gate(ctx: SkBuffContext) -> i32 {
        fate(gate::answer::<SILENT>(&ctx))
    }

    #[cgroup_skb(egress)]
    #[inline(always)]
    pub(crate) fn loud_gate(ctx: SkBuffContext) -> i32 {
        fate(gate::answer::<LOUD>(&ctx))
    }

    // The sentry's have no loud copy: its pods are nobody's yet.
    #[cgroup_skb(egress)]
    pub(crate) fn holdfast_sentry_gate(ctx: SkBuffContext) -> i32 {
        fate(sentry::answer(&ctx))
    }

    #[cgroup_sock_addr(connect4)]
    pub(crate) fn holdfast_sentry_connect4(ctx: SockAddrContext) -> i32 {
        sentry::mark(&ctx);
        ALLOW
    }

    #[cgroup_sock_addr(connect6)]
    pub(crate) fn holdfast_sentry_connect6(ctx: SockAddrContext) -> i32 {
        sentry::mark(&ctx);
        ALLOW
    }

    #[inline(always)]
    fn fate(verdict: gate::Verdict) -> i32 {
        // Literals, so that the verifier sees the bounds of the return value.
        match verdict {
            gate::Verdict::Pass => 1,
            gate::Verdict::DropFlat => 2,
            gate::Verdict::DropBackOff => 0,
        }
    }

    #[sock_ops]
    pub(crate) fn holdfast_retransmit(ctx: SockOpsContext) -> u32 {
        retransmit::on_callback::<SILENT>(&ctx);
        1
    }

    #[sock_ops]
    pub(crate) fn loud_retransmit(ctx: SockOpsContext) -> u32 {
        retransmit::on_callback::<LOUD>(&ctx);
        1
    }

    #[cgroup_sock(sock_release)]
    pub(crate) fn holdfast_release(ctx: SockContext) -> i32 {
        release::forget::<SILENT>(&ctx);
        ALLOW
    }

    #[cgroup_sock(sock_release)]
    pub(crate) fn loud_release(ctx: SockContext) -> i32 {
        release::forget::<LOUD>(&ctx);
        ALLOW
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    // bpf_setsockopt and bpf_sk_storage_get are callable by GPL-compatible programs only.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

/// Built for the host this target is empty: only its library, the ABI, is used there.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
