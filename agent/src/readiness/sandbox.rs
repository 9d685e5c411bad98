//! For the tests, which need root: a network namespace of its own with a process in it.

use std::{
    io::{self, BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
};

use crate::netns::{Entrance, Netns};

/// Long enough for anything that should happen soon, on any machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Sandbox {
    process: Child,
    pub(crate) netns: Arc<Netns>,
    pub(crate) entrance: Entrance,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let script = "ip link set lo up && echo up && exec cat";
        let mut process = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut told).unwrap();
        assert_eq!(told, "up\n");
        let path = format!("/proc/{}/ns/net", process.id());
        let netns = Arc::new(Netns::open(Path::new(&path)).unwrap());
        Self { process, netns, entrance: Entrance::start().unwrap() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Listens inside.
    pub(crate) async fn listen(&self, address: &str) -> TcpListener {
        let address: SocketAddr = address.parse().unwrap();
        self.entrance.run(&self.netns, move || TcpListener::bind(address)).await.unwrap()
    }

    /// Answers every request inside with `answer`, or, where it is empty, not at all.
    pub(crate) async fn serve(&self, address: &str, answer: &'static str) -> Server {
        let listener = self.listen(address).await;
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    let got = stream.read(&mut request).await?;
                    assert!(request[..got].starts_with(b"GET /"), "{:?}", &request[..got]);
                    if answer.is_empty() {
                        std::future::pending::<()>().await;
                    }
                    stream.write_all(answer.as_bytes()).await?;
                    io::Result::Ok(())
                });
            }
        });
        Server { connections, task }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Serves until it is dropped.
pub(crate) struct Server {
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
