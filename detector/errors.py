"""The error tree. Each message says where, what was found, what was expected, and whether a retry helps.

UnlikeError
├── SettingsError      the settings or the command line are wrong (exit code 2)
├── SourceError        a source cannot be read; the daemon tries again
├── StoreError         the state folder cannot be used
│   ├── StoreBusyError     another daemon holds it
│   └── StoreDamagedError  its content is not what was written; never half-used
├── PackError          a pack is missing, damaged or made by another version
├── TrainingError      there is too little to learn from
└── DeliveryError      a sink refused an alert; the outbox tries again
"""


class UnlikeError(Exception):
    """Base of every error that this program raises on purpose."""


class SettingsError(UnlikeError):
    """The settings or the command line are wrong."""


class SourceError(UnlikeError):
    """A source cannot be read now."""


class StoreError(UnlikeError):
    """The state folder cannot be used."""


class StoreBusyError(StoreError):
    """Another process holds the state folder."""


class StoreDamagedError(StoreError):
    """The stored state is not what was written."""


class PackError(UnlikeError):
    """A pack is missing, damaged or made by another version."""


class TrainingError(UnlikeError):
    """There is too little history to learn from."""


class UnknownError(UnlikeError):
    """What was asked for is not there."""


class AnswerError(UnlikeError):
    """A person's answer does not fit what it is an answer to."""


class DeliveryError(UnlikeError):
    """A sink did not take a message."""


class RefusedError(DeliveryError):
    """A sink will never take this message."""
