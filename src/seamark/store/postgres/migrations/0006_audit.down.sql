DROP TABLE seamark.audit_run;
DROP TABLE seamark.audit;
