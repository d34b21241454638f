//! A small JSON reader for the lines that the ranks, the plugin and the fabric script write.

use std::collections::BTreeMap;

/// A value; what the demo does not use (true, false, null) is kept as such.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Object(BTreeMap<String, Value>),
    Other,
}

/// Nothing the demo reads is deeper; a limit keeps a broken line from exhausting the stack.
const DEPTH_LIMIT: u32 = 16;

/// Reads one value; `None` when the text is not exactly one.
pub fn parse(text: &str) -> Option<Value> {
    let mut reader = Reader {
        rest: text.as_bytes(),
    };
    let value = reader.value(DEPTH_LIMIT)?;
    reader.space();
    reader.rest.is_empty().then_some(value)
}

impl Value {
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(map) => map.get(key),
            _ => None,
        }
    }

    /// The number under `key`.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            Self::Number(n) => Some(*n),
            _ => None,
        }
    }

    /// The text under `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Self::Text(t) => Some(t),
            _ => None,
        }
    }

    /// The whole, non-negative number under `key`.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count that a program of ours wrote; saturates"
    )]
    pub fn count(&self, key: &str) -> Option<u64> {
        self.number(key).map(|n| n as u64)
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.space();
        self.rest = self.rest.strip_prefix(&[byte])?;
        Some(())
    }

    fn value(&mut self, depth: u32) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        self.space();
        match self.rest.first()? {
            b'{' => {
                let mut map = BTreeMap::new();
                self.items(b'{', b'}', |r| {
                    r.space();
                    let key = r.string()?;
                    r.take(b':')?;
                    map.insert(key, r.value(depth)?);
                    Some(())
                })?;
                Some(Value::Object(map))
            }
            b'[' => {
                let mut list = Vec::new();
                self.items(b'[', b']', |r| {
                    list.push(r.value(depth)?);
                    Some(())
                })?;
                Some(Value::List(list))
            }
            b'"' => self.string().map(Value::Text),
            _ => {
                let end = self
                    .rest
                    .iter()
                    .position(|b| b",]} \t\r\n".contains(b))
                    .unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end);
                self.rest = rest;
                match word {
                    b"true" | b"false" | b"null" => Some(Value::Other),
                    _ => str::from_utf8(word).ok()?.parse().ok().map(Value::Number),
                }
            }
        }
    }

    /// What stands between `open` and `close`, separated by commas.
    fn items(
        &mut self,
        open: u8,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Option<()>,
    ) -> Option<()> {
        self.take(open)?;
        if self.take(close).is_some() {
            return Some(());
        }
        loop {
            item(self)?;
            if self.take(close).is_some() {
                return Some(());
            }
            self.take(b',')?;
        }
    }

    fn string(&mut self) -> Option<String> {
        self.take(b'"')?;
        let mut text = Vec::new();
        loop {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            match byte {
                b'"' => return String::from_utf8(text).ok(),
                b'\\' => {
                    let (&escaped, rest) = self.rest.split_first()?;
                    self.rest = rest;
                    match escaped {
                        b'n' => text.push(b'\n'),
                        b't' => text.push(b'\t'),
                        b'u' => {
                            let hex = str::from_utf8(self.rest.get(..4)?).ok()?;
                            let code = u32::from_str_radix(hex, 16).ok()?;
                            self.rest = &self.rest[4..];
                            let c = char::from_u32(code).unwrap_or('?');
                            text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                        }
                        other => text.push(other),
                    }
                }
                other => text.push(other),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_programs_write() {
        let v = parse(
            r#"{"t_ms": 12.5, "state":"up", "paths":[{"path":0},{"path":-1e1}], "wrong":null}"#,
        )
        .unwrap();
        assert_eq!(v.number("t_ms"), Some(12.5));
        assert_eq!(v.text("state"), Some("up"));
        let Some(Value::List(paths)) = v.get("paths") else {
            panic!("not a list")
        };
        assert_eq!(paths[1].number("path"), Some(-10.0));
        assert_eq!(v.get("wrong"), Some(&Value::Other));
        assert_eq!(
            parse(r#""a\"b\\cA""#),
            Some(Value::Text("a\"b\\cA".to_owned()))
        );
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "{",
            "{\"a\":1",
            "[1,]",
            "{\"a\":1}x",
            "\"a",
            "{\"a\" 1}",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&"[".repeat(100_000)), None);
    }
}
