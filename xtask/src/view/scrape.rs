//! Reading `/metrics`: the text format of Prometheus, as far as it is needed here.

/// All samples of one answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scrape {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Scrape {
    /// Reads the text; a line that is no sample is passed over.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self {
            samples: lines.filter_map(sample).collect(),
        }
    }

    /// The sum of all samples of `name` that carry these labels; `None` if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let carries = |sample: &Sample| {
            labels.iter().all(|(label, value)| {
                sample
                    .labels
                    .iter()
                    .any(|(name, found)| name == label && found == value)
            })
        };
        self.samples
            .iter()
            .filter(|sample| sample.name == name && carries(sample))
            .map(|sample| sample.value)
            .reduce(|sum, value| sum + value)
    }
}

/// `name value` or `name{label="text",…} value`, perhaps with a timestamp after it.
fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label.trim().to_owned(), value));
            rest = after;
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// A label's text up to its closing quote, and what comes after that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::Scrape;

    const TEXT: &str = r#"# HELP onceward_relay_alarm 1 while a source needs a person
# TYPE onceward_relay_alarm gauge
onceward_relay_alarm{source="order"} 1
onceward_relay_alarm{source="payment"} 0

onceward_write_waiting_jobs 3
odd{text="a \"b\" \\ {c}, d=\"e\"",other="x"} 2.5 1700000000000
broken{text="
no_value
"#;

    #[test]
    fn samples_are_summed_by_their_labels() {
        let scrape = Scrape::parse(TEXT);
        let sum = |name, labels: &[(&str, &str)]| scrape.sum(name, labels);
        assert_eq!(sum("onceward_relay_alarm", &[]), Some(1.0));
        assert_eq!(
            sum("onceward_relay_alarm", &[("source", "payment")]),
            Some(0.0)
        );
        assert_eq!(sum("onceward_relay_alarm", &[("source", "none")]), None);
        assert_eq!(sum("onceward_write_waiting_jobs", &[]), Some(3.0));
        let odd = [("text", r#"a "b" \ {c}, d="e""#), ("other", "x")];
        assert_eq!(sum("odd", &odd), Some(2.5));
        assert_eq!(sum("broken", &[]), None);
    }
}
