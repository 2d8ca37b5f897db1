"""The domain: pure. No await, no clock, no logging, no third-party import (design §5)."""
