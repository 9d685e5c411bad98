//! DNS messages, as much of them as resolvers and servers of the testbed exchange.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::outside::{BACKEND_V4, BACKEND_V6};

/// The backend's full name.
pub const SERVICE_FQDN: &str = "backend.shop.svc.cluster.local";
/// What kubelet writes into the resolv.conf of a pod of namespace `shop`.
pub const SEARCH: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local\n\
                          options ndots:5\n";

/// The services that have a name.
pub(crate) const SERVICES: [(&str, Ipv4Addr, Ipv6Addr); 1] =
    [(SERVICE_FQDN, BACKEND_V4, BACKEND_V6)];

/// A record's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
}

impl Kind {
    const fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
        }
    }
}

const HEADER: usize = 12;
const CLASS_IN: u16 = 1;
const RESPONSE: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const NAME_ERROR: u8 = 3;
/// A pointer to the question's name, which stands right behind the header.
const NAME_OF_QUESTION: [u8; 2] = [0xc0, HEADER as u8];
const TTL_S: u32 = 5;

/// A query for one name.
pub fn query(id: u16, name: &str, kind: Kind) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        // No label of a valid name is longer than 63 bytes.
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.number().to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

/// The id that ties an answer to its query.
pub fn id(message: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*message.first()?, *message.get(1)?]))
}

/// How the server answered: 0 means that the name exists.
pub fn response_code(message: &[u8]) -> Option<u8> {
    let is_response = message.get(2)? & RESPONSE != 0;
    is_response.then_some(message.get(3)? & 0x0f)
}

/// What a query asks for: its name in lower case, and the type's number.
pub fn question(message: &[u8]) -> Option<(String, u16)> {
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = message.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    Some((labels.join("."), u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?])))
}

/// The answer of a server that knows [`SERVICE_FQDN`] alone; `None` if it is no query.
pub fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let (name, kind) = question(query)?;
    if query[2] & RESPONSE != 0 {
        return None;
    }
    let service = SERVICES.iter().find(|(known, ..)| *known == name);
    let record = service.and_then(|(_, v4, v6)| match kind {
        1 => Some(v4.octets().to_vec()),
        28 => Some(v6.octets().to_vec()),
        _ => None,
    });
    // Header and question; an EDNS record behind them is not answered, as by a server without it.
    let end = HEADER + name.len() + 2 + 4;
    let mut message = query.get(..end)?.to_vec();
    message[2] = RESPONSE | AUTHORITATIVE | (query[2] & RECURSION_DESIRED);
    message[3] = RECURSION_AVAILABLE | if service.is_some() { 0 } else { NAME_ERROR };
    message[4..HEADER].copy_from_slice(&[0, 1, 0, u8::from(record.is_some()), 0, 0, 0, 0]);
    if let Some(data) = record {
        message.extend(NAME_OF_QUESTION);
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message.extend(TTL_S.to_be_bytes());
        message.extend([0, data.len() as u8]);
        message.extend(data);
    }
    Some(message)
}

/// The addresses in an answer to [`query`].
pub fn addresses(message: &[u8]) -> Option<Vec<IpAddr>> {
    let (name, _) = question(message)?;
    let records = u16::from_be_bytes([*message.get(6)?, *message.get(7)?]);
    let mut at = HEADER + name.len() + 2 + 4;
    let mut found = Vec::new();
    for _ in 0..records {
        at = skip_name(message, at)?;
        let length =
            usize::from(u16::from_be_bytes([*message.get(at + 8)?, *message.get(at + 9)?]));
        let data = message.get(at + 10..at + 10 + length)?;
        if let Ok(v4) = <[u8; 4]>::try_from(data) {
            found.push(IpAddr::from(v4));
        } else if let Ok(v6) = <[u8; 16]>::try_from(data) {
            found.push(IpAddr::from(v6));
        }
        at += 10 + length;
    }
    Some(found)
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_carries_the_address_of_the_type_that_was_asked_for() {
        for (kind, expected) in
            [(Kind::A, IpAddr::V4(BACKEND_V4)), (Kind::Aaaa, IpAddr::V6(BACKEND_V6))]
        {
            let query = query(0x1234, "Backend.shop.svc.cluster.local.", kind);
            let answer = answer(&query).unwrap();
            assert_eq!(id(&answer), Some(0x1234));
            assert_eq!(response_code(&answer), Some(0));
            assert_eq!(addresses(&answer), Some(vec![expected]));
            assert_eq!(response_code(&query), None, "a query is no answer");
            assert_eq!(super::answer(&answer), None, "an answer is not answered");
        }
    }

    #[test]
    fn an_unknown_name_does_not_exist_and_rubbish_is_not_answered() {
        let unknown = answer(&query(1, "nobody.shop.svc.cluster.local", Kind::A)).unwrap();
        assert_eq!(response_code(&unknown), Some(NAME_ERROR));
        assert_eq!(addresses(&unknown), Some(Vec::new()));
        assert_eq!(answer(&[0; 5]), None);
        assert_eq!(answer(&[0x3f; 40]), None, "a label that runs out of the message");
    }
}
