"""What the process imports of which every service in the tests is a fork."""

import app.bootstrap
import app.fanout.pubsub
import app.logs
import app.server  # noqa: F401
