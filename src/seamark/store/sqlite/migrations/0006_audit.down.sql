DROP TABLE audit_run;
DROP TABLE audit;
