"""What tests share: servers, agents and waiting for conditions."""
