"""ipdc-edge: InterPlanetary Distributed Computing for Raspberry-Pi-class boards."""

__version__ = "0.1.0"
