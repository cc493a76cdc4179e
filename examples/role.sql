-- A role of walkeeper's own, where it is not to be Patroni's replication user. On the leader, once:
--   psql -v password="'…'" -f role.sql
-- Then in the configuration: postgresql: {user: walkeeper, password_file: /etc/walkeeper/password}, and in pg_hba.conf of every node
--   host replication walkeeper 127.0.0.1/32 scram-sha-256     the receiver
--   host postgres    walkeeper 127.0.0.1/32 scram-sha-256     the agent's session
-- with the other members' addresses as well: status asks them, and WAL that the leader lacks is fetched from them.
-- LOGIN and REPLICATION are all it needs: it reads pg_replication_slots, moves the hold slot, and streams. With durability: store,
-- GRANT pg_read_all_stats TO walkeeper lets status and metrics say how many commits wait.
CREATE ROLE walkeeper LOGIN REPLICATION PASSWORD :password;
