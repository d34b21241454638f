//! A value for each metric of a table, by name where it is written down: what a release does not know of
//! another's is passed over, and what the other did not have is nothing. What is absent is left out.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::histogram::Counts;
use super::schema::Table;

/// A value that may be written down.
pub trait Value {
    /// Whether there is none.
    fn is_absent(&self) -> bool {
        false
    }
}

impl Value for u64 {}

impl Value for Counts {}

impl Value for Option<u64> {
    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

/// A value for each metric of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values<T, V = u64> {
    values: Vec<V>,
    table: PhantomData<T>,
}

impl<T: Table, V> Values<T, V> {
    /// What this says of each.
    pub fn new(value: impl FnMut(T) -> V) -> Self {
        Self {
            values: T::ALL.iter().copied().map(value).collect(),
            table: PhantomData,
        }
    }

    /// Each with its metric.
    pub fn iter(&self) -> impl Iterator<Item = (T, &V)> {
        T::ALL.iter().copied().zip(&self.values)
    }
}

impl<T: Table> Values<T> {
    /// What was counted since `earlier`. A counter that is lower than then has begun anew.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self::new(|of| self[of].checked_sub(earlier[of]).unwrap_or(self[of]))
    }
}

impl<T: Table, V: Default> Default for Values<T, V> {
    fn default() -> Self {
        Self::new(|_| V::default())
    }
}

impl<T: Table, V> Index<T> for Values<T, V> {
    type Output = V;

    fn index(&self, metric: T) -> &V {
        &self.values[metric.place()]
    }
}

impl<T: Table, V> IndexMut<T> for Values<T, V> {
    fn index_mut(&mut self, metric: T) -> &mut V {
        &mut self.values[metric.place()]
    }
}

impl<T: Table, V: Serialize + Value> Serialize for Values<T, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let present = || self.iter().filter(|(_, value)| !value.is_absent());
        let mut map = serializer.serialize_map(Some(present().count()))?;
        for (metric, value) in present() {
            map.serialize_entry(&metric.metric().field(), value)?;
        }
        map.end()
    }
}

impl<'de, T: Table, V: Deserialize<'de> + Default> Deserialize<'de> for Values<T, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

struct Fields<T, V>(PhantomData<(T, V)>);

impl<'de, T: Table, V: Deserialize<'de> + Default> Visitor<'de> for Fields<T, V> {
    type Value = Values<T, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metrics by their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = Values::default();
        while let Some(name) = map.next_key::<String>()? {
            let known = T::ALL.iter().find(|metric| metric.metric().field() == name);
            match known {
                Some(&metric) => values[metric] = map.next_value()?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values)
    }
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;
    use crate::telemetry::schema::{LinkCounter, LinkGauge, PortGauge};

    #[test]
    fn are_written_by_name_and_read_whatever_else_is_there() {
        let values = Values::<LinkGauge>::new(|metric| metric.place() as u64 + 1);
        let text = serde_json::to_string(&values).unwrap();
        assert_eq!(
            text,
            r#"{"window_bytes":1,"in_flight_bytes":2,"active_paths":3}"#
        );
        let back: Values<LinkGauge> =
            serde_json::from_str(r#"{"later":{"x":[1]},"active_paths":3,"window_bytes":1}"#)
                .unwrap();
        assert_eq!(back[LinkGauge::ActivePaths], 3);
        assert_eq!(back[LinkGauge::InFlight], 0);
        let other: Values<LinkCounter> = serde_json::from_str(&text).unwrap();
        assert_eq!(other, Values::default());
        assert!(serde_json::from_str::<Values<LinkCounter>>(r#"{"messages":"x"}"#).is_err());
    }

    #[test]
    fn what_is_absent_is_left_out() {
        let mut values = Values::<PortGauge, Option<u64>>::default();
        values[PortGauge::LinkUp] = Some(0);
        let text = serde_json::to_string(&values).unwrap();
        assert_eq!(text, r#"{"link_up":0}"#);
        assert_eq!(values, serde_json::from_str(&text).unwrap());
        let null: Values<PortGauge, Option<u64>> =
            serde_json::from_str(r#"{"link_up":0,"mtu_bytes":null}"#).unwrap();
        assert_eq!(values, null);
    }
}
