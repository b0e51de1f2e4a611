//! What goes wrong, and what puts it right again.
use super::agenda::Due;
use super::world::{Crash, World};

/// Puts something right.
#[derive(Clone, Copy, Debug)]
pub enum Heal {
    /// The machine's network, both ways.
    Network(usize),
    /// Its speed.
    Speed(usize),
    /// Its size.
    Size(usize),
    /// The broker.
    Broker,
    /// The coordinator's disk.
    Disk,
    /// The machine's gpus.
    Gpus(usize),
}

/// How likely, and what.
type Fault = (u32, fn(&mut World));

const FAULTS: [Fault; 17] = [
    (12, broken),
    (10, partition),
    (8, one_way),
    (4, slow),
    (8, agent_killed),
    (8, keeper_killed),
    (6, guardian_killed),
    (5, rebooted),
    (3, host_frozen),
    (3, resized),
    (12, head_killed),
    (3, head_frozen),
    (4, wall_set),
    (2, wall_right),
    (8, World::broker_fault),
    (5, World::disk_fills),
    (5, World::gpu_falls_sick),
];

/// One fault, chosen by chance, and the time of the next.
pub fn strike(world: &mut World) {
    let weights = FAULTS.map(|(weight, _)| weight);
    let at = world.rng.weighted(&weights);
    FAULTS[at].1(world);
    let pause = world.rng.range(world.options.pause_ms / 8, world.options.pause_ms);
    world.agenda.at(world.now + pause, Due::Fault);
}

/// Every fault comes to its end. What is frozen moves again by itself: what waits for that keeps its order.
pub fn end_all(world: &mut World) {
    for host in 0..world.hosts.len() {
        heal(world, Heal::Network(host));
        heal(world, Heal::Speed(host));
        heal(world, Heal::Size(host));
        heal(world, Heal::Gpus(host));
    }
    heal(world, Heal::Broker);
    heal(world, Heal::Disk);
    world.crash = None;
    world.wall_offset = 0;
}

/// One thing comes right.
pub fn heal(world: &mut World, what: Heal) {
    world.note(|| format!("heal {what:?}"));
    match what {
        Heal::Network(host) => world.reopen(host),
        Heal::Broker => world.broker_back(),
        Heal::Disk => world.disk_empties(),
        Heal::Gpus(host) => world.gpus_heal(host),
        Heal::Speed(host) => world.agents[host].slow_ms = 0,
        Heal::Size(host) => {
            let full = world.options.cpu_milli[host];
            if world.hosts[host].cpu_milli != full {
                world.hosts[host].cpu_milli = full;
                world.break_session(host, true);
            }
        }
    }
}

fn any_host(world: &mut World) -> usize {
    world.rng.below(world.hosts.len() as u64) as usize
}

fn cut_ms(world: &mut World) -> u64 {
    *world.rng.pick(&[3_000, 8_000, 20_000, 45_000, 70_000, 150_000, 400_000])
}

fn broken(world: &mut World) {
    let host = any_host(world);
    world.count.hit("fault: session broken");
    world.note(|| format!("fault: session of {host} broken"));
    let told = world.rng.chance(50);
    world.break_session(host, told);
}

fn partition(world: &mut World) {
    let (host, ms) = (any_host(world), cut_ms(world));
    world.count.hit("fault: partition");
    world.note(|| format!("fault: {host} cut off for {ms}"));
    (world.up[host].cut, world.down[host].cut) = (true, true);
    world.agenda.at(world.now + ms, Due::Heal(Heal::Network(host)));
}

fn one_way(world: &mut World) {
    let (host, ms) = (any_host(world), cut_ms(world));
    world.count.hit("fault: partition of one direction");
    let up = world.rng.chance(50);
    world.note(|| format!("fault: {host} cut off for {ms}, upwards {up}"));
    if up {
        world.up[host].cut = true;
    } else {
        world.down[host].cut = true;
    }
    world.agenda.at(world.now + ms, Due::Heal(Heal::Network(host)));
}

fn slow(world: &mut World) {
    let host = any_host(world);
    world.count.hit("fault: slow network");
    world.agents[host].slow_ms = world.rng.range(100, 3_000);
    world.agenda.at(world.now + 30_000, Due::Heal(Heal::Speed(host)));
}

fn agent_killed(world: &mut World) {
    let host = any_host(world);
    world.count.hit("fault: agent killed");
    world.note(|| format!("fault: agent of {host} killed"));
    world.kill_agent(host);
    if world.hosts[host].on {
        let pause = world.rng.range(200, 20_000);
        world.agenda.at(world.now + pause, Due::AgentBorn(host));
    }
}

fn keeper_killed(world: &mut World) {
    let host = any_host(world);
    if world.hosts[host].keeper.take().is_none() {
        return;
    }
    world.count.hit("fault: keeper killed");
    world.note(|| format!("fault: keeper of {host} killed"));
    world.hosts[host].words.clear();
    world.break_session(host, true);
    let pause = world.rng.range(20, 2_000);
    world.agenda.at(world.now + pause, Due::KeeperBorn(host));
}

fn guardian_killed(world: &mut World) {
    let host = any_host(world);
    let ids: Vec<_> = world.hosts[host].guardians.keys().copied().collect();
    if ids.is_empty() {
        return;
    }
    let id = *world.rng.pick(&ids);
    if world.with_host(host, |h, cx| h.kill_guardian(id, cx)) {
        world.count.hit("fault: guardian killed");
        world.note(|| format!("fault: guardian of {id} killed"));
    }
}

fn rebooted(world: &mut World) {
    let host = any_host(world);
    if !world.hosts[host].on {
        return;
    }
    world.count.hit("fault: machine rebooted");
    world.note(|| format!("fault: {host} loses power"));
    world.kill_agent(host);
    world.with_host(host, super::host::Host::lose_power);
    let pause = *world.rng.pick(&[500, 5_000, 30_000, 100_000]);
    world.agenda.at(world.now + pause, Due::Boot(host));
}

fn host_frozen(world: &mut World) {
    let host = any_host(world);
    let ms = *world.rng.pick(&[4_000, 15_000, 90_000, 400_000]);
    if world.hosts[host].frozen_until > world.now {
        return;
    }
    world.count.hit("fault: machine frozen");
    world.note(|| format!("fault: {host} frozen for {ms}"));
    world.hosts[host].frozen_until = world.now + ms;
    let id = world.hosts[host].id.clone();
    world.ledger.excuse(&id);
}

fn resized(world: &mut World) {
    let host = any_host(world);
    world.count.hit("fault: machine resized");
    world.hosts[host].cpu_milli = *world.rng.pick(&[1_000, 2_000, 4_000]);
    world.break_session(host, true);
    world.agenda.at(world.now + 60_000, Due::Heal(Heal::Size(host)));
}

fn head_killed(world: &mut World) {
    let half = world.rng.below(100);
    let kinds = [Crash::BeforeCommit, Crash::Released(0), Crash::Released(half), Crash::Released(100)];
    world.crash = Some(*world.rng.pick(&kinds));
}

fn head_frozen(world: &mut World) {
    let ms = *world.rng.pick(&[6_000, 90_000]);
    if world.frozen_until > world.now {
        return;
    }
    world.count.hit("fault: coordinator frozen");
    world.note(|| format!("fault: coordinator frozen for {ms}"));
    world.frozen_until = world.now + ms;
}

fn wall_set(world: &mut World) {
    const HOUR: i64 = 3_600_000;
    world.wall_offset = *world.rng.pick(&[HOUR, -HOUR, -10 * 365 * 24 * HOUR, 30_000]);
    world.count.hit("fault: wall clock set");
    let offset = world.wall_offset;
    world.note(|| format!("fault: wall clock off by {offset}"));
}

fn wall_right(world: &mut World) {
    world.wall_offset = 0;
    world.note(|| "wall clock right".to_owned());
}
