"""The API: what its document says is what it does, fuzzed against a real server; the commands use it."""
