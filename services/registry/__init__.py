"""Who runs where, and who may be asked: the registry in etcd, and the snapshot that every agent reads."""
