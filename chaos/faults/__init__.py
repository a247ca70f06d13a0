"""The fault library. Importing this package registers every fault by its name."""

import chaos.faults.dependencies
import chaos.faults.gpu
import chaos.faults.hosts
import chaos.faults.links
import chaos.faults.processes
import chaos.faults.resources  # noqa: F401
