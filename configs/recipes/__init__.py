"""What several configuration files share: a paper's data, networks and schedules."""
