//! How many credentials that are not taken one address may show: so many at once, then one every few seconds. What is good
//! is taken whatever the address did before, because many share one.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Bad credentials at once …
const BURST: u32 = 20;
/// … and then one in this time.
const INTERVAL: Duration = Duration::from_secs(3);
/// Addresses remembered. When more are about, all are forgotten: who has that many loses nothing by a limit.
const MANY: usize = 10_000;
/// The part of an IPv6 address that one customer has.
const IPV6_PREFIX: u128 = !0 << 64;

/// Bad credentials by address.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<HashMap<IpAddr, Instant>>);

impl Attempts {
    /// Whether an address has shown so many that nothing of it is looked at closely; then for how long.
    pub fn rest(&self, address: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let until = *self.lock().get(&of(address?))?;
        let rest = until.checked_duration_since(now)?.checked_sub(INTERVAL * (BURST - 1))?;
        (!rest.is_zero()).then_some(rest)
    }

    /// It showed another one.
    pub fn failed(&self, address: Option<IpAddr>, now: Instant) {
        let Some(address) = address.map(of) else { return };
        let mut all = self.lock();
        if all.len() >= MANY && !all.contains_key(&address) {
            all.retain(|_, until| *until > now);
            if all.len() >= MANY {
                all.clear();
            }
        }
        let until = all.entry(address).or_insert(now);
        *until = (*until).max(now) + INTERVAL;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, Instant>> {
        // A panic while it was held left nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & IPV6_PREFIX).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_burst_and_then_one_in_a_while() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let address = |text: &str| Some(text.parse().unwrap());
        for _ in 0..BURST {
            assert_eq!(attempts.rest(address("2001:db8::1"), now), None);
            attempts.failed(address("2001:db8::1"), now);
        }
        // Another one of the same network, and one of another.
        assert_eq!(attempts.rest(address("2001:db8::ffff"), now), Some(INTERVAL));
        assert_eq!(attempts.rest(address("2001:db8:1::1"), now), None);
        assert_eq!(attempts.rest(None, now), None);
        assert_eq!(attempts.rest(address("2001:db8::1"), now + INTERVAL), None);
    }

    #[test]
    fn no_more_addresses_are_remembered_than_a_bound() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..3 * MANY as u32 {
            attempts.failed(Some(std::net::Ipv4Addr::from_bits(number).into()), now);
        }
        assert!(attempts.lock().len() <= MANY);
    }
}
