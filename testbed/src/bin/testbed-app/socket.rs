//! Sockets with the options that the tests need, and what the kernel says of them afterwards.

use std::{
    io,
    mem::{MaybeUninit, size_of},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
};

use libc::c_int;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::connect::{Args, FastOpen};

/// The address to dial: an IPv4 one as `::ffff:a.b.c.d` when asked for.
pub(crate) fn destination(args: &Args) -> SocketAddr {
    match args.to.ip() {
        IpAddr::V4(v4) if args.v4_mapped => {
            SocketAddr::new(v4.to_ipv6_mapped().into(), args.to.port())
        }
        ip => SocketAddr::new(ip, args.to.port()),
    }
}

/// An unconnected TCP socket with the options of `args`.
pub(crate) fn new(args: &Args) -> io::Result<Socket> {
    let to = destination(args);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(retries) = args.syncnt {
        set_tcp_option(&socket, libc::TCP_SYNCNT, retries)?;
    }
    socket.set_tcp_user_timeout(args.user_timeout)?;
    socket.set_write_timeout(args.send_timeout)?;
    if args.fast_open == Some(FastOpen::Connect) {
        set_tcp_option(&socket, libc::TCP_FASTOPEN_CONNECT, 1)?;
    }
    Ok(socket)
}

fn set_tcp_option(socket: &Socket, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the value is a c_int that outlives the call, and its own size is passed with it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            name,
            (&raw const value).cast(),
            length_of::<c_int>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn tcp_option<T>(socket: &Socket, name: c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = length_of::<T>();
    // SAFETY: the kernel writes at most `length` bytes into `value`, which has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        // SAFETY: only c_int and tcp_info are read here; any bit pattern is one of either, and
        // what the kernel did not write is zero.
        Ok(unsafe { value.assume_init() })
    } else {
        Err(io::Error::last_os_error())
    }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("socket options are a few hundred bytes")
}

/// `TCP_SYNCNT` as the application would read it.
pub(crate) fn options(socket: &Socket) -> io::Result<Value> {
    let syncnt: c_int = tcp_option(socket, libc::TCP_SYNCNT)?;
    Ok(json!({"tcp_syncnt": syncnt}))
}

/// Round-trip time, retransmission timeout and the like, as `ss -ti` shows them.
pub(crate) fn tcp_info(socket: &Socket) -> io::Result<Value> {
    let info: libc::tcp_info = tcp_option(socket, libc::TCP_INFO)?;
    Ok(json!({
        "state": info.tcpi_state,
        "srtt_us": info.tcpi_rtt,
        "rttvar_us": info.tcpi_rttvar,
        "rto_us": info.tcpi_rto,
        "retransmits": info.tcpi_retransmits,
        "total_retrans": info.tcpi_total_retrans,
        "snd_cwnd": info.tcpi_snd_cwnd,
        "options": info.tcpi_options,
    }))
}
