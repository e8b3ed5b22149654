//! A TCP proxy of your own: lvs-sched chooses the server, lvs-health says which servers are alive, tokio moves the
//! bytes. No packets, no root. It starts three backends on loopback, stops one, starts it again, makes 60 requests
//! through the proxy meanwhile, and ends.
//!
//! `cargo run --example custom_proxy`

use std::collections::BTreeMap;
use std::error::Error;
use std::{io, io::Write, net::SocketAddr, time::Duration};

use lvs_health::{Check, CheckConfig, HealthEvent, Monitor, TcpAnswer, TcpCheck};
use lvs_sched::{Balancer, Endpoint, Flow, Instant, Protocol, SchedulerKind, Weight};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::{task::JoinSet, time};

fn main() -> Result<(), Box<dyn Error>> {
    run(&mut io::stdout().lock())
}

/// The program, with its output where the caller wants it.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let (mut addrs, mut backends) = (Vec::new(), Vec::new());
    for name in ["a", "b", "c"] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addrs.push(listener.local_addr()?);
        backends.push(tokio::spawn(backend(listener, name)));
    }
    let balancer = Balancer::new(SchedulerKind::RoundRobin);
    balancer.update(addrs.iter().map(|&addr| Endpoint::from(addr)))?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let service = listener.local_addr()?;
    let (sender, mut events) = channel(16);
    tokio::spawn(proxy(listener, service, balancer.clone()));
    tokio::spawn(health(balancer, sender));

    requests(out, "all up", service).await?;
    backends[1].abort();
    event(out, &mut events).await?;
    requests(out, "b stopped", service).await?;
    backends[1] = tokio::spawn(backend(TcpListener::bind(addrs[1]).await?, "b"));
    event(out, &mut events).await?;
    requests(out, "b is back", service).await
}

/// A real server: says its name and closes.
async fn backend(listener: TcpListener, name: &'static str) -> io::Result<()> {
    loop {
        // A health check hangs up without reading; that is no error of the server.
        let _ = listener.accept().await?.0.write_all(name.as_bytes()).await;
    }
}

/// The proxy: a choice, a connect, bytes both ways. The lease counts the connection until it is dropped.
async fn proxy(listener: TcpListener, service: SocketAddr, balancer: Balancer) -> io::Result<()> {
    loop {
        let (mut downstream, client) = listener.accept().await?;
        let flow = Flow { protocol: Protocol::Tcp, client: client.into(), service: service.into() };
        let Some(lease) = balancer.pick(&flow, Instant::ZERO) else { continue };
        tokio::spawn(async move {
            let mut upstream = TcpStream::connect(SocketAddr::from(lease.server())).await?;
            let copied = copy_bidirectional(&mut downstream, &mut upstream).await;
            drop(lease);
            copied
        });
    }
}

/// The owner of a monitor: makes its probes, reports what came of them, turns its events into weights.
async fn health(balancer: Balancer, events: Sender<HealthEvent<Endpoint>>) -> Option<()> {
    let start = time::Instant::now();
    let now = || Instant::ZERO + start.elapsed();
    let mut monitor = Monitor::new(7);
    for server in balancer.servers() {
        let mut config = CheckConfig::new(TcpCheck::new(server.key));
        config.delay_loop = Duration::from_millis(50);
        config.delay_before_retry = Duration::from_millis(10);
        monitor.add_check(server.key, config, now()).ok()?;
    }
    let mut probes = JoinSet::new();
    loop {
        monitor.handle_timeout(now());
        while let Some(probe) = monitor.poll_probe(now()) {
            probes.spawn(async move {
                let Check::Tcp(check) = probe.check else { return None };
                let connected = TcpStream::connect(SocketAddr::from(probe.endpoint())).await;
                let answer = connected.map_or_else(|e| TcpAnswer::from_error(&e), |_| TcpAnswer::Connected);
                Some((probe.id, check.judge(answer)))
            });
        }
        while let Some(event) = monitor.poll_event() {
            balancer.set_weight(event.server, event.status.weight(Weight::ONE));
            events.send(event).await.ok()?;
        }
        let wait = monitor.poll_timeout()?.saturating_since(now());
        tokio::select! {
            Some(Ok(Some((id, outcome)))) = probes.join_next() => drop(monitor.handle_outcome(id, outcome, now())),
            () = time::sleep(wait) => {}
        }
    }
}

/// Twenty requests, one after another, and who answered them.
async fn requests(out: &mut impl Write, phase: &str, service: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..20 {
        let mut name = String::new();
        if TcpStream::connect(service).await?.read_to_string(&mut name).await? == 0 {
            name.push_str("nobody");
        }
        *shares.entry(name).or_default() += 1;
    }
    Ok(writeln!(out, "{phase:<10} 20 requests: {shares:?}")?)
}

/// Waits for a server to go up or down.
async fn event(
    out: &mut impl Write,
    events: &mut Receiver<HealthEvent<Endpoint>>,
) -> Result<(), Box<dyn Error>> {
    let event =
        time::timeout(Duration::from_secs(10), events.recv()).await?.ok_or("the health checks ended")?;
    Ok(writeln!(out, "health     {} is {:?}: {}", event.server, event.status, event.cause)?)
}
