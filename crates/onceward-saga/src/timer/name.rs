//! Names of a saga's timers.

use std::fmt;
use std::str::FromStr;

/// What a saga's timer is for. Each is armed at most once: the try is part of the name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TimerName {
    /// The step may be silent until then.
    Deadline {
        /// The step.
        step: String,
        /// Its branch.
        branch: i32,
        /// The try that is waited for.
        attempt: i32,
    },
    /// The refused command goes out again then.
    Retry {
        /// The step.
        step: String,
        /// Its branch.
        branch: i32,
        /// The try that was refused.
        attempt: i32,
    },
}

impl TimerName {
    /// The deadline of a try.
    pub fn deadline(step: &str, branch: i32, attempt: i32) -> Self {
        Self::Deadline {
            step: step.to_owned(),
            branch,
            attempt,
        }
    }

    /// The delay after a refused try.
    pub fn retry(step: &str, branch: i32, attempt: i32) -> Self {
        Self::Retry {
            step: step.to_owned(),
            branch,
            attempt,
        }
    }

    /// The step it is about.
    pub fn step(&self) -> &str {
        match self {
            Self::Deadline { step, .. } | Self::Retry { step, .. } => step,
        }
    }
    /// The branch of the step.
    pub fn branch(&self) -> i32 {
        match self {
            Self::Deadline { branch, .. } | Self::Retry { branch, .. } => *branch,
        }
    }
    /// The try of the step's command.
    pub fn attempt(&self) -> i32 {
        match self {
            Self::Deadline { attempt, .. } | Self::Retry { attempt, .. } => *attempt,
        }
    }
}

impl fmt::Display for TimerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Deadline { .. } => "deadline",
            Self::Retry { .. } => "retry",
        };
        write!(
            f,
            "{kind}/{}/{}/{}",
            self.step(),
            self.branch(),
            self.attempt()
        )
    }
}

/// Not the name of a saga's timer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not kind/step/branch/attempt")]
pub struct InvalidTimerName(String);

impl FromStr for TimerName {
    type Err = InvalidTimerName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidTimerName(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let [kind, step, branch, attempt] = parts[..] else {
            return Err(invalid());
        };
        let branch = branch.parse().map_err(|_| invalid())?;
        let attempt = attempt.parse().map_err(|_| invalid())?;
        match kind {
            "deadline" => Ok(Self::deadline(step, branch, attempt)),
            "retry" => Ok(Self::retry(step, branch, attempt)),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TimerName;

    #[test]
    fn a_timer_is_found_again_by_its_name() {
        for timer in [
            TimerName::deadline("payment", 0, 1),
            TimerName::retry("a-b_c", 3, 12),
        ] {
            assert_eq!(timer.to_string().parse(), Ok(timer));
        }
        assert!("deadline/payment/0".parse::<TimerName>().is_err());
    }
}
