"""Makes a site's programs services of a machine: systemd units, or containers."""
