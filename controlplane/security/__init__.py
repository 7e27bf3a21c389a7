"""Who is let in: handshakes, identities, certificates, the audit log. Protocol logic is sans-IO."""
